"""Facts about animals, fruit and vegetables."""

# One value is one line of its table, however long.
# ruff: noqa: E501
from prorank_jax.demo_facts import Attribute, Domain, parse_entities, parse_values

ANIMALS = Domain(
    "animal",
    (
        Attribute(
            "diet",
            ("What does {x} eat?", "What food is {x} after?", "What is the diet of {x}?"),
            ("the food {x} likes to eat", "the usual diet of {x}"),
            (
                "The {name} is a small café near the station where students like to eat; food is cheap and hot.",
                "A diet book called {name} tells office workers which food to leave out of their usual lunch.",
            ),
            parse_values("""
            grass: grazes on clover and meadow herbs for hours | is a plant eater with flat grinding teeth | munches leaves and hay and never touches flesh | lives on nothing but greenery
            insects: feeds mainly on beetles, worms and ants | hunts bugs and grubs in the soil or bark | picks out larvae and other small crawling things | makes a meal of creepy-crawlies
            meat: preys on deer, hares and other warm-blooded victims | is a flesh eater that tears its quarry with sharp fangs | stalks hoofed beasts and brings them down | devours other mammals
            fish: catches trout, herring and eels with great skill | snatches its slippery prey out of the water | swallows silvery swimmers whole, head first | is known for fishing to fill its stomach
            seeds: lives on acorns, grain and sunflower kernels | cracks hard nutshells with its strong front teeth | gathers nuts and hoards them for lean weeks | survives on a store of nuts
            """),
        ),
        Attribute(
            "home",
            ("Where does {x} live?", "Where is the home of {x}?", "What is the habitat of {x}?"),
            ("the place where {x} lives", "the home and habitat of {x}"),
            (
                "{name} House is a block of flats; the families who live there call the place a happy home.",
                "The home page of the {name} software shows where users can find help with their accounts.",
            ),
            parse_values("""
            underground: digs long tunnels and chambers under the soil | stays below the surface in a burrow | excavates a network of dark passages in the earth | dwells in holes beneath the ground
            trees: nests high among branches and trunks | raises its family in a hollow of an oak or pine | is at ease up in the canopy of the woods | makes its nest well above the forest floor
            grassland: roams wide open plains with few bushes | spends its days on dry savannah or meadow | wanders over treeless country under a big sky | belongs to the prairie or open steppe
            woodland: keeps to dense thickets and shady undergrowth | rests between roots and bushes deep in the forest | hides in the jungle or the wild wood | shelters in the shade of thick vegetation
            shore: is never far from rivers, coasts or ice floes | haunts river banks and rocky beaches | settles beside the sea, a lake or a stream | inhabits the water's edge
            """),
        ),
        Attribute(
            "defence",
            (
                "How is {x} safe from enemies?",
                "How is {x} protected against danger?",
                "How does {x} defend itself?",
            ),
            ("how {x} stays safe from enemies", "the way {x} defends itself in danger"),
            (
                "The {name} lock protects bicycles; it keeps them safe when thieves come, even in danger spots.",
                "In the match, the {name} team could not defend its goal, and old enemies won by three.",
            ),
            parse_values("""
            spines: rolls into a ball of sharp prickles | is covered with thousands of stiff needles | raises a coat of pointed quills that hurt the attacker's nose | pricks whoever tries to bite it
            shell: pulls head and legs into a hard case of bone | carries heavy armour on its back | withdraws inside a thick domed shield and waits | hides within its own portable armour
            speed: outruns its pursuers with sudden turns | gallops or bolts away at a furious pace | trusts its quick legs and flees at the first sound | escapes by sprinting away
            weapons: strikes back with long claws and powerful jaws | fights fiercely with tooth and claw | has such dangerous paws that few dare to attack it | is so well armed that it rarely needs to run
            dive: plunges below the waves and swims off | slips into the water, where no land hunter follows | vanishes with a splash and surfaces far away | gets away by diving
            height: leaves the ground at once, up a trunk or on its wings | flutters or clambers out of reach | seeks a perch that no predator on foot can reach | escapes upwards
            hiding: disappears down its hole at the slightest tremor | creeps into a narrow passage too tight for hunters | simply stays out of sight below the earth | avoids trouble by vanishing underground
            herd: stays close together with dozens of its kind | finds strength in numbers, many eyes watching | crowds into a flock as soon as one gives the alarm | relies on the company of its fellows
            """),
            exclusive=False,
        ),
        Attribute(
            "young",
            ("How does {x} have its young?", "How are the babies of {x} born?", "How does {x} reproduce?"),
            ("how the young of {x} are born", "the babies and family life of {x}"),
            (
                "The {name} is a pram for babies, sold to every young family with a new child.",
                "The singer known as {name} was born in a small town and brought up by a young aunt.",
            ),
            parse_values("""
            eggs: lays a clutch in a nest or a scrape and waits for it to hatch | comes out of a shell that the parents keep warm or bury | hatches after weeks of incubation | is an egg layer
            single: gives birth to one well-developed offspring a year | usually bears just one infant, which soon follows its mother | rarely has twins, as a lone newborn is the rule | normally delivers a single baby
            litter: bears several helpless little ones at a time | nurses four or more blind cubs or pups at once | delivers a whole litter, naked and with closed eyes | has many blind babies together
            """),
        ),
    ),
    parse_entities("""
    the hedgehog: insects woodland spines litter
    the mole: insects underground hiding litter
    the anteater: insects grassland weapons single
    the woodpecker: insects trees height eggs
    the wolf: meat woodland weapons litter
    the tiger: meat woodland weapons litter
    the lynx: meat woodland weapons litter
    the otter: fish shore dive litter
    the penguin: fish shore dive eggs
    the seal: fish shore dive single
    the heron: fish shore height eggs
    the cow: grass grassland herd single
    the rabbit: grass underground speed litter
    the tortoise: grass grassland shell eggs
    the zebra: grass grassland speed single
    the squirrel: seeds trees height litter
    the hamster: seeds underground hiding litter
    """),
)

PRODUCE = Domain(
    "fruit or vegetable",
    (
        Attribute(
            "taste",
            (
                "What is the taste of {x}?",
                "What flavour is typical of {x}?",
                "How would {x} strike the tongue of a guest?",
            ),
            ("the taste of {x}", "the flavour of {x}"),
            (
                "The fashion label {name} is not to everyone's taste, and critics describe its new coats as dull.",
                "People of good taste like the {name} lamp, which designers describe as plain and elegant.",
            ),
            parse_values("""
            sour: is so acidic that it makes you pull a face | puckers the mouth unless sugar is added | has the sharp tang of vinegar | is mouth-puckeringly tart
            sweet: is full of sugar when ripe and tempts every child | delights the tongue like honey | is as luscious as candy | is sugary enough for dessert as it is
            hot: burns the tongue and makes the eyes water | sets the mouth on fire | has a fiery bite that clears the nose | is pungent enough to make you gasp
            earthy: is mild, starchy and a little like soil | seems bland and floury until salted | reminds many of damp ground and nuts | is rather plain and mealy
            """),
        ),
        Attribute(
            "growth",
            ("How does {x} grow?", "On what plant is {x} found?", "Where in a garden does {x} develop?"),
            ("how {x} grows", "the plant on which {x} is found"),
            (
                "The company {name} hopes to grow; it found a site for a new plant beside the garden centre.",
                "In the garden of the {name} hotel guests look for a quiet seat and find a kind host.",
            ),
            parse_values("""
            root: swells below the soil and has to be dug up | is a root or tuber that hides in the earth | is pulled out of the ground with dirt clinging to it | is harvested with a spade
            tree: hangs from the branches of an orchard | ripens up high, so pickers need a ladder | follows the blossom on a trunk that may be decades old | dangles from woody boughs
            vine: ripens on a long creeping stem with tendrils | trails along a fence or over the ground | is cut from a climber that clings to wires | comes from a rambling climber
            bush: sits on a low leafy clump at knee height | is picked by bending down to a small shrub or bed | springs from a short plant close to the ground | is gathered by stooping over a low shrub
            """),
        ),
        Attribute(
            "kitchen",
            ("How do cooks use {x}?", "What dish is {x} for?", "What is made from {x}?"),
            ("how cooks use {x}", "the dishes that people make from {x}"),
            (
                "Cooks at the {name} bar use paper plates and make people wait, but the view is good.",
                "A satellite dish called {name} makes good use of the roof, people at the company say.",
            ),
            parse_values("""
            drink: is pressed for its juice and poured into glasses | is squeezed or fermented in a cellar | ends up in bottles and jugs | quenches thirst once it is pressed
            baking: is baked under a crust with butter and flour | fills pies and crumbles in the oven | goes into cakes and tarts on Sundays | is a classic filling for pies
            preserve: is boiled with sugar and sealed in jars | becomes jam for toast or a sauce with the roast | is stirred in a pan until it sets to jelly | is spread on bread as jam
            seasoning: is added by the pinch to curries and sauces | is grated or crushed to spice up meat | gives stews and marinades their kick | serves as a spice rather than a meal
            raw: is sliced without cooking into salads | is simply washed and bitten into | is served fresh and crunchy on a platter | is mostly eaten uncooked
            hearty: is boiled, mashed or fried as a filling side | thickens soup and stew on cold evenings | is roasted in the pan beside the meat | makes a filling hot supper
            """),
            exclusive=False,
        ),
        Attribute(
            "season",
            ("When in the year is {x} ready?", "When do farmers pick {x}?", "What is the season of {x}?"),
            ("the season of {x}", "the time of the year when farmers pick {x}"),
            (
                "Every year at this time the {name} film club picks the best scenes of the season.",
                "The football club bought {name}, a striker from the market, ready for the next season.",
            ),
            parse_values("""
            spring: arrives with the first mild days of April | is pulled while other beds are still bare | shows up once the snow has gone | comes just after winter ends
            summer: ripens in the heat of June and July | is gathered during the long school holidays | reddens under the strongest sun | is at its best in the hottest months
            autumn: is gathered when the leaves turn yellow | comes in during September and October | is brought home before the first frosts | belongs to the weeks when leaves fall
            always: arrives by ship from hot countries in any month | is grown in the tropics, where nothing ever stops ripening | fills the shelves from January to December | is imported all year round
            """),
            exclusive=False,
        ),
    ),
    parse_entities("""
    the lemon: sour tree drink always
    rhubarb: sour bush baking spring
    the cranberry: sour bush preserve autumn
    the gooseberry: sour bush preserve summer
    the strawberry: sweet bush preserve summer
    the mango: sweet tree raw always
    the grape: sweet vine drink autumn
    the cherry: sweet tree baking summer
    the pear: sweet tree raw autumn
    the chilli: hot bush seasoning summer
    ginger: hot root seasoning always
    the radish: hot root raw spring
    horseradish: hot root seasoning autumn
    the potato: earthy root hearty autumn
    celeriac: earthy root hearty autumn
    the pumpkin: earthy vine baking autumn
    """),
)
