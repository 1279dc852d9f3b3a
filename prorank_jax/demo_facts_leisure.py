"""Facts about musical instruments and sports."""

# One value is one line of its table, however long.
# ruff: noqa: E501
from prorank_jax.demo_facts import Attribute, Domain, parse_entities, parse_values

INSTRUMENTS = Domain(
    "instrument",
    (
        Attribute(
            "playing",
            (
                "How is {x} played?",
                "How does one get a sound from {x}?",
                "What does the musician do with {x}?",
            ),
            ("how a musician plays {x}", "the way to get sound from {x}"),
            (
                "The {name} is a hotel with a play room and a football player on the wall; musicians do stay there.",
                "The children play a card game, {name}, in which a player gets points with a loud sound.",
            ),
            parse_values("""
            bowed: is stroked with horsehair drawn across the strings | sings when a bow passes over it | needs a rosined stick moved to and fro | is made to sing with a bow
            blown: is held to the lips and filled with breath | needs strong lungs and a steady stream of air | speaks when someone puffs into the mouthpiece | takes a good pair of lungs
            plucked: is picked with the fingertips or a plectrum | rings when a nail pulls a string and lets go | is strummed or picked by hand | is strummed by the fingers
            struck: is hit with sticks, mallets or a beater | sounds when someone beats it | answers to every knock and tap | is beaten or knocked
            keyed: has black and white keys to press | is worked by pressing a row of levers with ten fingers | needs both hands on the keyboard | has a keyboard
            """),
        ),
        Attribute(
            "material",
            ("What is {x} made of?", "Of what stuff is {x}?", "What do makers build {x} from?"),
            ("what {x} is made of", "the stuff from which makers build {x}"),
            (
                "The {name} diet has made many bodies fit, say the makers, who build it from simple stuff.",
                "A bridge named {name} was built in a year; what the makers said of it made the news.",
            ),
            parse_values("""
            wood: is carved from spruce, maple or another timber | owes its warm glow to varnished planks | starts as a log in a carver's shop | consists mainly of timber
            metal: is bent from brass, silver or steel | gleams because its sheets and tubes are polished | is soldered, hammered and buffed until it shines | consists mainly of a shiny alloy
            skin: has a hide stretched over a frame or hoop | is covered with a tight membrane of calf or plastic | carries a taut sheet that can tear when it is dry | has a stretched membrane
            """),
            exclusive=False,
        ),
        Attribute(
            "pitch",
            ("Is {x} high or low?", "What is the range of {x}?", "How deep is the voice of {x}?"),
            ("the high or low sound of {x}", "the range and the voice of {x}"),
            (
                "The {name} dam is low on water, and a deep voice reads notes about it on the radio.",
                "{name} notes sell at a low price; the range in the shop goes from small to high stacks.",
            ),
            parse_values("""
            high: chirps like a bird at the top of the scale | is bright, shrill and silvery | carries the tune above everything else | belongs to the treble
            low: growls at the bottom of the scale | rumbles so far down that the floor trembles | lays the dark bass under the tune | belongs to the bass
            wide: covers six octaves or more, from rumble to tinkle | reaches from the darkest bass up to the brightest treble | can accompany itself at both ends of the scale | spans nearly the whole scale
            none: has no definite tone and only marks the beat | gives a thud or a jingle that no one could hum | keeps time without any melody | cannot carry a tune at all
            """),
        ),
        Attribute(
            "carrying",
            ("How is {x} transported?", "How big is {x}?", "Is {x} easy to carry?"),
            ("how musicians transport {x} to a concert", "how big {x} is and how easy to carry"),
            (
                "The concert hall called {name} is easy to reach by public transport and big enough for all.",
                "{name} is a big bank; it is easy to open an account, even for musicians.",
            ),
            parse_values("""
            pocket: slips into a bag or a coat | weighs less than a loaf and lies in a small case | travels under the seat of a bus | fits in a handbag
            arm: travels in a case over the shoulder | needs one strong person and a free seat | goes on the back in a padded cover | can be taken on the back by one person
            van: needs two strong movers and a lorry | stays where it is, as doors and stairs are too narrow | calls for a ramp, straps and a hired truck | is a job for removal men
            """),
        ),
    ),
    parse_entities("""
    the violin: bowed wood high arm
    the cello: bowed wood low arm
    the double bass: bowed wood low van
    the flute: blown metal high pocket
    the piccolo: blown metal high pocket
    the trumpet: blown metal high arm
    the tuba: blown metal low arm
    the bassoon: blown wood low arm
    the harp: plucked wood wide van
    the banjo: plucked skin high arm
    the kettledrum: struck skin low van
    the tambourine: struck skin none pocket
    the triangle: struck metal none pocket
    the grand piano: keyed wood wide van
    the church organ: keyed metal wide van
    """),
)


SPORTS = Domain(
    "sport",
    (
        Attribute(
            "surface",
            ("Where is {x} done?", "What ground is for {x}?", "What place is right for {x}?"),
            ("the place where {x} is played or done", "the right kind of ground for {x}"),
            (
                "There is ground for hope at {name} Bank, whose boss says that the right kind of work is done.",
                "{name} Lane is the right place for a shop: the ground floor needs little to be done.",
            ),
            parse_values("""
            turf: takes place on a mown lawn | leaves green stains on the knees | is at home on a big meadow with white lines or flags | wants a well-kept lawn
            ice: takes place on a frozen rink | makes blades hiss over a slippery sheet | goes on in a chilly hall with a smooth frozen floor | wants a frozen sheet
            pool: goes on in or on the water | cannot be done on dry land | begins with a splash | needs a lake, a sea or a pool
            hall: takes place on a wooden floor under a roof | squeaks with rubber soles in the gym | goes on inside, whatever the weather | belongs in a gymnasium
            snow: takes place on white slopes in the mountains | starts from a chairlift | calls for a cold winter and a steep hillside | wants a snowy hillside
            """),
        ),
        Attribute(
            "gear",
            (
                "What equipment is for {x}?",
                "Which things does one buy for {x}?",
                "What does one wear or hold in {x}?",
            ),
            ("the equipment for {x}", "the things to buy, hold or wear for {x}"),
            (
                "Readers buy the magazine {name} to hold on to the things that they require at the start of spring.",
                "The {name} store sells things to wear; it requires you to buy two.",
            ),
            parse_values("""
            ball: revolves around a single ball handled without any bat | means throwing, kicking or heading something round | needs just something round and inflated | needs only something round filled with air
            bat: is about hitting something small with a racket, bat or club | calls for a handle with strings or a hard face | needs a swinging tool to strike with | involves swinging at a small object
            stick: is about driving a disc with a long curved stick | needs pads, a helmet and a hooked pole | sends a black puck flying off a blade | uses a puck
            boards: means strapping or standing on boards | needs long or broad planks under the feet | begins with waxing something flat to glide on | needs planks under the feet
            boat: calls for a narrow hull and long oars | needs blades dipped on both sides of a slim shell | starts with lifting a hull off its rack | needs oars
            skates: asks for boots with steel runners | starts with lacing up sharpened blades | is done on thin edges of metal under the heel and toe | needs sharpened blades under the boots
            body: asks for little more than a tight costume and a trained body | can be done with next to nothing in the bag | needs no ball, bat or board at all | needs hardly any kit except a costume
            """),
        ),
        Attribute(
            "players",
            (
                "How many people are in {x}?",
                "Is {x} done alone or with others?",
                "With whom does one do {x}?",
            ),
            ("the people who take part in {x}", "whether {x} is done alone or with others"),
            (
                "Many people take part in the {name} lottery, some alone and others with friends.",
                "{name} is a train to the coast that people take alone or with others.",
            ),
            parse_values("""
            solo: is a matter for one athlete alone, without partners | leaves each competitor with nobody to pass to | puts everyone on their own in front of the crowd | is for individuals
            duel: sets one opponent against another, or pair against pair | is a duel across a barrier | needs just one rival on the other side of the net | is a contest of two across a barrier
            team: needs a full side with substitutes on the bench | lives from passing between team-mates | is for a squad that wins or loses together | is for a squad
            """),
        ),
        Attribute(
            "winning",
            ("How does one win at {x}?", "How is {x} decided?", "What is the result of {x} based on?"),
            ("how to win at {x}", "how the result of {x} is decided"),
            (
                "{name} was first in the poll; the result decides who comes to the parliament.",
                "How do you win a seat on the {name} board? A vote decides, and the result comes by post.",
            ),
            parse_values("""
            goals: rewards whoever sends it between the posts or through the hoop more often | counts how often the keeper or the ring is beaten | goes to the side with more hits on target | counts how often a target is hit
            clock: rewards the fastest over a set distance | is measured in hundredths of a second | goes to whoever crosses the line before the rest | is a race against time
            judges: depends on marks given for style and difficulty | has a panel that holds up scores for grace and daring | rewards beauty and risk in the eyes of experts | is settled by a jury
            rallies: goes to whoever reaches a set number of points in several sets | rewards the one whose shot is not returned | is played point by point, set by set | is divided into sets
            strokes: goes to whoever needs the fewest swings | rewards a low number on the card after eighteen holes | punishes every extra swing on the way to the hole | rewards the lowest number on the card
            runs: goes to the side with more runs before all its wickets fall | counts how often batters run between two ends | is added up in innings | adds up what happens in two innings
            """),
        ),
    ),
    parse_entities("""
    football: turf ball team goals
    handball: hall ball team goals
    basketball: hall ball team goals
    water polo: pool ball team goals
    volleyball: hall ball team rallies
    ice hockey: ice stick team goals
    figure skating: ice skates solo judges
    speed skating: ice skates solo clock
    gymnastics: hall body solo judges
    backstroke swimming: pool body solo clock
    rowing: pool boat team clock
    surfing: pool boards solo judges
    downhill skiing: snow boards solo clock
    freestyle snowboarding: snow boards solo judges
    badminton: hall bat duel rallies
    table tennis: hall bat duel rallies
    golf: turf bat solo strokes
    cricket: turf bat team runs
    """),
)
