"""Facts about jobs and cities."""

# One value is one line of its table, however long.
# ruff: noqa: E501
from prorank_jax.demo_facts import Attribute, Domain, parse_entities, parse_values

JOBS = Domain(
    "worker",
    (
        Attribute(
            "place",
            (
                "Where does {x} work?",
                "What is the workplace of {x}?",
                "In what surroundings is {x} to be found?",
            ),
            ("where {x} works", "the workplace and surroundings of {x}"),
            (
                "A horse named {name} won the race at a place where many families earn a living.",
                "The {name} is a phone that does not work in the hills; its makers look for a new place.",
            ),
            parse_values("""
            workshop: stands at a bench among tools and shavings | is found in a shed full of half-finished pieces | spends the week in a cluttered studio with a yard behind it | can be visited at a bench in a workshop
            hospital: is found on a ward or beside an operating table | walks long corridors that smell of disinfectant | is surrounded by beds, monitors and stretchers | spends the day in a clinic
            outdoors: is outside in wind and sun, among beds, crops or flocks | knows every corner of the fields | comes home with muddy boots | spends the day in the open air
            school: is surrounded by shelves, desks and blackboards | moves quietly between desks and reading corners | is found in a building full of pupils and books | belongs to the world of classrooms and reading rooms
            vehicle: sits or stands at the controls and is on the move all day | sees new towns through a windscreen | has no fixed desk and covers many miles | is always travelling from one stop or port to the next
            shop: serves behind a counter on the high street | greets people who step in from the pavement | has a window display and a bell at the door | stands behind a shop counter
            """),
        ),
        Attribute(
            "tool",
            ("Which tools are for {x}?", "What equipment is used by {x}?", "What does {x} have in hand?"),
            ("the tools and equipment of {x}", "what {x} has in hand on the job"),
            (
                "The {name} credit card is a tool that shoppers hold in hand; they need it every day.",
                "{name} is the name of an app; all the equipment that you need is a phone.",
            ),
            parse_values("""
            blades: cuts with saws, knives or razors | takes care that the edges are always sharp | reaches for scissors, scalpel or cleaver | has to handle sharp edges
            fire: tends glowing coals or a hot oven | pulls red-hot or steaming things out with tongs or a shovel | sweats before flames and embers | cannot do without a furnace or an oven
            needle: stitches or injects with a fine point | threads or fills something thin and pointed many times a day | pricks through cloth or skin with care | uses a thin pointed instrument
            printed: turns pages, stamps cards and writes with chalk or pen | opens a volume and reads aloud from it | carries a bag of novels and exercise books | relies on books
            controls: watches dials and moves a wheel, lever or rudder | steers with both hands | keeps an eye on gauges and mirrors | handles a steering device
            spade: digs, rakes and loads with a barrow or fork | pushes a plough or a mower over the soil | drives a shovel into the earth | turns over soil
            staff: leans on a long crook and whistles for a dog | carries a stick and a lantern | waves a pole to keep the stragglers together | has a stick and a trained dog
            """),
            exclusive=False,
        ),
        Attribute(
            "training",
            (
                "How does {x} get into the trade?",
                "What education does {x} need?",
                "How did {x} learn the job?",
            ),
            ("the education of {x}", "how {x} learned the job"),
            (
                "An old film, {name}, shows how a trade union learned to do its job.",
                "The {name} foundation pays for education; it requires a letter on how one hopes to become useful.",
            ),
            parse_values("""
            university: spends years in lecture halls and passes state exams | needs a degree before the first day | attends college and writes a thesis | is an academic with a diploma
            apprentice: starts as a boy or girl under a master and sweeps the floor | picks up the craft over three years beside a master | makes a masterpiece after serving as a helper | grows into the trade under an old master
            licence: must pass theory and practical tests and renew a permit | collects hours under supervision until an examiner signs | is allowed to start only with a certificate and an eye test | needs an official permit
            family: is shown the ropes by parents and grandparents | inherits the know-how with the land | follows in a mother's or father's footsteps without any certificate | takes over from the older generation
            """),
        ),
        Attribute(
            "hours",
            ("When does {x} start the day?", "What are the working hours of {x}?", "When is {x} on duty?"),
            ("the working hours of {x}", "the time at which {x} starts the day"),
            (
                "{name} is a radio programme: two hours of songs to start the day in good time.",
                "The {name} museum is open for six hours a day; duty staff start at noon.",
            ),
            parse_values("""
            dawn: gets up long before sunrise | is busy while the town is asleep and yawns by noon | sets the alarm for three or four | is up before everyone else
            shifts: takes turns, one week by day and the next by night | may be called in at midnight or on Christmas | follows a roster that changes all the time | has to work some nights
            office: begins at eight or nine and goes home in the late afternoon | has free weekends and regular evenings | locks the door at five sharp | keeps regular daytime hours
            light: goes by the sun, long in June and short in December | stops when it gets dark | follows the seasons rather than a clock | depends on daylight
            """),
        ),
    ),
    parse_entities("""
    the carpenter: workshop blades apprentice office
    the blacksmith: workshop fire apprentice office
    the tailor: workshop needle apprentice office
    the surgeon: hospital blades university shifts
    the nurse: hospital needle university shifts
    the farmer: outdoors spade family dawn
    the gardener: outdoors spade apprentice light
    the shepherd: outdoors staff family light
    the teacher: school printed university office
    the librarian: school printed university office
    the pilot: vehicle controls licence shifts
    the bus driver: vehicle controls licence shifts
    the ferry captain: vehicle controls licence shifts
    the baker: shop fire apprentice dawn
    the barber: shop blades apprentice office
    the butcher: shop blades apprentice dawn
    """),
)


CITIES = Domain(
    "city",
    (
        Attribute(
            "setting",
            (
                "What landscape is around {x}?",
                "What is the location of {x} like?",
                "What does nature look like around {x}?",
            ),
            ("the landscape around {x}", "the location and natural features of {x}"),
            (
                "A painting named {name} shows no landscape at all, just blue squares that lie around a dot.",
                "The {name} sofa lies flat as a bed; its features are natural cloth and a steel frame.",
            ),
            parse_values("""
            coast: looks out over the open sea | has beaches, piers and gulls | was built beside salt water | borders the ocean
            river: lines a broad stream full of boats | grew up on the banks of a great waterway | owes its trade to barges on the current | stands on a mighty stream
            mountains: sits so high that visitors gasp for breath | is ringed by snowy peaks | spreads over steep slopes thousands of metres up | is far above sea level
            lake: stretches along the shore of a large inland water | has promenades where swans beg for bread | fills one end of a broad freshwater basin | stands on a lakeside
            """),
            exclusive=False,
        ),
        Attribute(
            "climate",
            ("What is the weather like in {x}?", "What is the climate of {x}?", "Is it warm or cold in {x}?"),
            ("the weather in {x}", "the climate that visitors find in {x}"),
            (
                "The {name} is a warm winter coat that visitors to a weather station should expect to like.",
                "{name} Cold Stores keeps ice cream; the mood among staff is warm, whatever the weather.",
            ),
            parse_values("""
            dry: bakes under a cloudless sky and sees hardly a drop of rain | is scorched by desert sun for most of the year | is dusty, parched and blazing at noon | suffers from burning sunshine and drought
            tropical: is sticky and sweltering, with downpours in the afternoon | steams like a greenhouse in every month | makes shirts cling to the skin between thunderstorms | is humid and hot throughout the year
            mild: has four seasons and few extremes | knows a little snow, a little heat and many grey days | offers moderate temperatures and regular showers | is neither freezing nor sweltering
            freezing: lies under snow for months | shivers through long icy winters | makes people wrap up in furs and scrape frost from windows | is bitterly chilly for much of the year
            """),
        ),
        Attribute(
            "continent",
            (
                "In which part of the world is {x}?",
                "On what continent is {x}?",
                "To which region does {x} belong?",
            ),
            ("the part of the world in which {x} lies", "the continent and region of {x}"),
            (
                "World of {name} is a video game; each region belongs to a part of a made-up globe.",
                "The {name} Globe is a theatre prize; actors from every part of the world look for it.",
            ),
            parse_values("""
            europe: lies in Europe | is a European place with cafés and an old parliament | is counted with Rome, Berlin and Oslo as part of the old continent | is on the same continent as Rome and Berlin
            africa: lies in Africa | shares its landmass with the Sahara and the Congo | is an African place | is on the same landmass as the Sahara
            asia: lies in Asia | is an Asian place, closer to India or China than to Paris | is found in the Orient, beyond Suez | is in the Orient, beyond Suez
            south: lies in South America | is a Latin American place in the land of the Andes and the Amazon | is south of Panama, in the New World | is in the same part of the world as the Amazon
            north: lies in North America | is found between Mexico and the Arctic | is in the New World, north of the Rio Grande | is on the same landmass as the Mississippi
            """),
        ),
        Attribute(
            "size",
            ("How many people live in {x}?", "What is the population of {x}?", "How large is {x}?"),
            ("the population of {x}", "how many people live in {x}"),
            (
                "The live album {name} is a big favourite with a large number of people.",
                "{name} trousers come in small and large; people like how many pockets they have.",
            ),
            parse_values("""
            giant: is a metropolis of many millions | is crammed with more inhabitants than some countries | counts among the most crowded places anywhere | is home to several million souls
            medium: has from about one to three million inhabitants | is neither a village nor a giant | is a good deal more than a town, but no megacity | is mid-sized, with a million or two
            compact: has fewer than half a million inhabitants | can be crossed on foot in an hour or two | feels like a town where everybody knows everybody | is home to fewer than half a million
            """),
        ),
    ),
    parse_entities("""
    Cairo: river dry africa giant
    Nouakchott: coast dry africa medium
    Dubai: coast dry asia giant
    Bangkok: river tropical asia giant
    Singapore: coast tropical asia giant
    Leh: mountains freezing asia compact
    Reykjavik: coast freezing europe compact
    Porto: coast mild europe compact
    Paris: river mild europe giant
    Vienna: river mild europe medium
    Geneva: lake mild europe compact
    Zurich: lake mild europe compact
    Quito: mountains mild south medium
    Manaus: river tropical south medium
    Chicago: lake freezing north medium
    Toronto: lake freezing north medium
    """),
)
