"""Facts about materials and vehicles."""

# One value is one line of its table, however long.
# ruff: noqa: E501
from prorank_jax.demo_facts import Attribute, Domain, parse_entities, parse_values

MATERIALS = Domain(
    "material",
    (
        Attribute(
            "origin",
            ("Where does {x} come from?", "What is the source of {x}?", "How is {x} obtained?"),
            ("where {x} comes from", "the source of {x}"),
            (
                "The source code of the game {name} is free; people obtain it with one click.",
                "Where do all the fans of the band {name} come from? Mostly from the south, says the drummer.",
            ),
            parse_values("""
            mine: is dug out of rock in deep mines | is won from ore with pickaxes and furnaces | lies in veins in the mountains until diggers find it | is extracted from the earth's crust by miners
            animal: is taken from creatures kept on farms | is supplied by living beings such as flocks, herds or hives | begins on or in the body of a beast or insect | is an animal product
            plant: is harvested from a crop or a trunk | grows in fields and forests before it reaches the mill | starts out as fibre, sap or bark | is a vegetable product
            ground: is made from sand or mud found near rivers | begins as soft sediment from a pit or a beach | is shovelled from river banks before it is heated | starts as sand or mud
            """),
        ),
        Attribute(
            "use",
            ("What is {x} used for?", "Which things are made of {x}?", "What do craftsmen do with {x}?"),
            ("what {x} is used for", "the things that are made of {x}"),
            (
                "The {name} card is used for bus rides; craftsmen and students get one made for free.",
                "{name} Street is known for things made by local craftsmen, mostly toys.",
            ),
            parse_values("""
            clothes: is spun, woven and sewn into shirts and scarves | keeps people warm or elegant from neck to knee | becomes cloth on the loom | is turned into garments
            building: holds up bridges, roofs and walls | carries heavy loads in houses and towers | is chosen for beams and pillars that must last | gives houses their strength
            vessels: is shaped into bowls, jars and bottles | holds wine, soup or flowers on the table | is formed into cups and jugs | serves as a container for liquids
            luxury: shines in rings, crowns and coins | is hammered into jewels for the rich | is locked away in vaults by banks | is worn by brides and kings
            wiring: carries current through cables in every house | is drawn into thin wires for motors | links sockets and lamps | conducts electricity in homes
            sealing: stops bottles, pipes and gaps from leaking | is pressed into openings so that nothing drips | closes containers tightly | keeps liquids from running out
            writing: is bound into books and folded into letters | takes ink from pens and printers | is piled up in every office for notes and forms | carries words and drawings
            shoes: is cut into boots, belts and saddles | wraps the feet of hikers and riders | is stitched into soles and straps by cobblers | ends up on people's feet
            """),
            exclusive=False,
        ),
        Attribute(
            "fire",
            (
                "What becomes of {x} in a fire?",
                "How is {x} changed by heat?",
                "Is {x} able to burn or to melt?",
            ),
            ("what happens to {x} in a fire", "the effect of great heat on {x}"),
            (
                "The {name} newspaper reacted with great heat when its editor was fired for what he wrote.",
                "The {name} basketball club beat Miami Heat in a strong game, and what happens next is open.",
            ),
            parse_values("""
            melts: turns liquid and can be poured into a mould | softens, glows and finally flows | loses its shape and runs like syrup | becomes fluid when hot enough
            burns: catches flame at once and leaves ashes | goes up in smoke within minutes | feeds the blaze until only cinders remain | is consumed by flames
            singes: shrivels, smells of burnt hair and goes out | curls up and chars slowly with a bad smell | scarcely flames, but stinks and blackens | smoulders with the stench of hair
            hardens: becomes rigid and solid for ever | sets firmly in the kiln | comes out as hard as brick | turns from soft to solid in the oven
            unmoved: hardly changes and only gets warm | stays solid, with a few cracks at most | survives the blaze almost as it was | withstands flames
            """),
        ),
        Attribute(
            "water",
            ("How does {x} behave in water?", "What if {x} gets wet?", "What does rain do to {x}?"),
            ("the behaviour of {x} in water and rain", "what happens when {x} gets wet"),
            (
                "It often rains at the {name} open-air festival, and when tents get wet people behave well.",
                "The {name} ice cream van sells bottles of water when it is hot and stays away when rain happens.",
            ),
            parse_values("""
            floats: bobs on the surface and never sinks | is lighter than a pond and drifts on it | stays on top of the waves | can be used as a raft
            soaks: drinks up moisture and becomes heavy and limp | absorbs drops like a sponge | swells, sags and takes long to dry | takes in liquid like a towel
            rusts: slowly turns brown and flaky | corrodes unless it is painted | is eaten away by a red crust | gets covered with a reddish crust
            repels: is not changed at all, and the drops run off | sinks but comes out as good as new | can be wiped dry without a trace | is unharmed by moisture
            dissolves: falls apart and disappears into the liquid | turns into mush or brine | vanishes after some stirring | goes into solution
            """),
        ),
    ),
    parse_entities("""
    gold: mine luxury melts repels
    silver: mine luxury melts repels
    iron: mine building melts rusts
    copper: mine wiring melts repels
    granite: mine building unmoved repels
    glass: ground vessels melts repels
    clay: ground vessels hardens dissolves
    oak wood: plant building burns floats
    wool: animal clothes singes soaks
    silk: animal clothes singes soaks
    cotton: plant clothes burns soaks
    leather: animal shoes singes soaks
    beeswax: animal sealing melts floats
    cork: plant sealing burns floats
    paper: plant writing burns soaks
    """),
)


VEHICLES = Domain(
    "vehicle",
    (
        Attribute(
            "medium",
            ("What does {x} travel on?", "Along which route does {x} go?", "What is under {x} on its way?"),
            ("the kind of route that {x} takes", "what {x} travels on"),
            (
                "{name} is a kind of board game; players take a route and can see others moving along.",
                "The travel writer known as {name} took a kind aunt along on one of her trips.",
            ),
            parse_values("""
            road: rolls over asphalt, lanes and tracks | shares the street with cars | needs firm ground under its tyres | uses streets
            rails: glides along a pair of steel bars | cannot leave its track | follows lines laid on sleepers or in the pavement | runs on a fixed iron track
            water: crosses lakes, straits and oceans | floats from quay to quay | cuts through the waves | moves over the sea or a river
            air: rises above the clouds | soars over hills and towns | leaves the earth behind and looks down on rooftops | flies
            """),
        ),
        Attribute(
            "power",
            ("What drives {x}?", "What energy is there in {x}?", "What makes {x} go?"),
            ("the energy that makes {x} go", "what drives {x} forward"),
            (
                "The {name} is a chocolate bar for energy; what makes it sell is the price.",
                "Coach {name} drives the players forward; nobody knows where he gets the energy to go on.",
            ),
            parse_values("""
            muscle: is moved by legs or arms alone | goes as fast as its owner can pedal or paddle | needs sweat instead of fuel | is propelled by human strength
            engine: burns diesel, petrol or kerosene in a roaring motor | has to fill its tank before a long trip | leaves exhaust fumes behind | runs on fuel from a tank
            electric: takes current from a wire or a conducting rail | hums quietly because it has no exhaust | stands still when the grid fails | depends on electricity
            wind: is carried by the breeze or rising warmth | waits for a good gust or an updraught and needs no motor | drifts wherever the air pushes it | has neither motor nor pedals and obeys the breeze
            """),
        ),
        Attribute(
            "load",
            ("How much does {x} carry?", "What is {x} able to transport?", "How much room is in {x}?"),
            ("how many people or goods {x} carries", "the room in {x} and what it can transport"),
            (
                "There is not much room in the {name} cinema, yet many people carry in snacks.",
                "How much does the {name} theatre ticket cost? Many people can get one for ten.",
            ),
            parse_values("""
            few: has space for one or two riders | suits a single person or a couple | is filled once a pair has climbed in | fits no more than a couple
            crowd: takes dozens or hundreds of passengers | fills with commuters or tourists, row after row | has seat after seat and standing places too | moves a whole crowd at once
            cargo: hauls tons of freight in boxes and crates | is loaded with steel, grain and parcels rather than passengers | pulls or lifts enormous weights of merchandise | shifts heavy merchandise
            """),
        ),
        Attribute(
            "parking",
            (
                "Where is {x} kept at night?",
                "Where is {x} left after use?",
                "What is the parking place of {x}?",
            ),
            ("where {x} is kept at night", "the parking place of {x}"),
            (
                "The {name} nightclub keeps its doors shut by day; nobody needs a parking place until ten.",
                "At night the {name} burger stand is kept open for drivers in the parking place.",
            ),
            parse_values("""
            harbour: is moored at a jetty with ropes | lies at anchor behind the breakwater | is tied to a pier among gulls | ends the day in a port or marina
            airfield: rests in a hangar beside a runway | is rolled under a big roof on a field with a windsock | waits on the apron or in a large hall next to the tower | is stored at an airport
            depot: returns to a long shed with many sidings | is cleaned in a hall with rows of tracks and pits | is shunted to a yard outside the terminus | goes back to a railway yard
            yard: is locked in a garage, a barn or a shed by the house | is left in the courtyard under a tarpaulin | leans or stands by the garden wall | is left beside somebody's house
            """),
            exclusive=False,
        ),
    ),
    parse_entities("""
    the bicycle: road muscle few yard
    the rickshaw: road muscle few yard
    the tractor: road engine cargo yard
    the lorry: road engine cargo yard
    the motorcycle: road engine few yard
    the tram: rails electric crowd depot
    the metro train: rails electric crowd depot
    the freight train: rails engine cargo depot
    the ferry: water engine crowd harbour
    the container ship: water engine cargo harbour
    the canoe: water muscle few yard
    the sailing dinghy: water wind few harbour
    the glider: air wind few airfield
    the airliner: air engine crowd airfield
    the cargo plane: air engine cargo airfield
    """),
)
