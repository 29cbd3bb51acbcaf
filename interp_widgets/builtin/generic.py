"""Sixty-four plain English sentences: what mean ablation averages over when nothing nearer to the question is given."""

from __future__ import annotations

SENTENCES: tuple[str, ...] = tuple(
    """
The bakery on the corner opens at six every morning, and the smell of bread fills the street.
She had left her umbrella on the train, so she walked home in the rain.
Most of the houses in the village were built more than a hundred years ago.
After the meeting, the manager thanked everyone for their work and closed the door.
A small brown dog ran across the field and barked at the horses.
The committee will publish its report before the end of the month.
He could not remember where he had put the key to the garden shed.
In winter the lake freezes, and children skate on it after school.
The museum has a large collection of maps, letters and old photographs.
My brother plays the guitar, but he has never performed in front of people.
Water boils at a lower temperature in the mountains than at the coast.
The two countries signed an agreement on fishing rights last spring.
If the weather is good tomorrow, we will take the boat to the island.
The teacher asked the students to read the first chapter before Monday.
They painted the kitchen yellow because the room gets little light.
A new bridge was built across the river to shorten the journey to the city.
The patient was told to rest for a week and drink plenty of water.
Prices rose quickly during the summer, while wages stayed almost the same.
Every evening the old man sat by the window and watched the ships.
The company plans to open three more shops in the north of the country.
Her first novel was written in a café and published ten years later.
Because the road was closed, the bus took a longer way through the forest.
The recipe needs two eggs, a cup of flour and a little salt.
Nobody knew who had sent the flowers, and there was no card.
The concert began late, but the audience did not seem to mind.
Scientists have found that the birds return to the same island every year.
The judge listened to both sides before she made a decision.
We bought a table and four chairs at the market on Saturday.
The lights went out at nine, and the whole street was dark for an hour.
Farmers in the valley grow apples, pears and a few kinds of nuts.
He wrote a long letter to his sister, who lived on the other side of the ocean.
The museum was empty, so the children could run from room to room.
A thin layer of snow covered the roofs and the parked cars.
The team lost its first match and then won the next five.
I have never been to the desert, but I would like to see it one day.
The engine made a strange noise, so the driver stopped by the side of the road.
Many of the workers come from nearby towns and travel by train.
The library is open until eight on weekdays and closed on Sundays.
Her grandfather kept bees and sold the honey to his neighbours.
The doctor looked at the picture for a long time before he spoke.
There is a narrow path behind the church that leads down to the sea.
The new law will change the way in which people rent their homes.
It took them three days to cross the mountains on foot.
The soup was too hot to eat, so we talked for a while.
Old newspapers were piled in the corner next to a broken lamp.
The moon rose over the hills and turned the snow to silver.
She speaks four languages and is learning a fifth.
The factory was turned into flats, with a theatre on the ground floor.
A group of tourists stood in front of the palace and took pictures.
His answer surprised the whole class, including the teacher.
The garden is full of roses in June, and the neighbours come to see them.
Early in the morning the fishermen pulled their boats onto the sand.
The prime minister will travel to the capital next week for talks.
We waited for an hour, but the last train had already left.
The clock in the tower has shown the wrong time since the storm.
A good carpenter measures twice and cuts once.
The cat slept on the warm stones until the sun went down.
They met at university and have been friends for thirty years.
The river floods every spring and leaves rich soil on the fields.
He opened the box carefully and found a letter inside.
The orchestra practised the same passage again and again.
Few people visit the island outside the summer months.
The shop sells paper, pens, paint and everything else that an artist needs.
At the end of the story the king gives the ring back to the fisherman.
""".strip().splitlines()
)
