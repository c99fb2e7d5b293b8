-- The tables of driver_cases.py and of the programs in packaged/.
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE large (id int PRIMARY KEY, body text, data bytea);
CREATE TABLE arrays (id int PRIMARY KEY, numbers int[], texts text[]);
