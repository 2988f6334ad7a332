CREATE TABLE item (id INTEGER PRIMARY KEY, kind INTEGER, name TEXT, price REAL);
CREATE TABLE sale (id INTEGER PRIMARY KEY, item INTEGER, day INTEGER, amount INTEGER);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows / 10)
INSERT INTO item SELECT i, i * 7919 % 97, printf('item %05d', i * 31 % 100003), i % 1000 / 8.0
FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
INSERT INTO sale SELECT i, i * 40503 % (:rows / 10) + 1, i * 13 % 365, i * 17 % 23 + 1 FROM n;
COMMIT;
CREATE INDEX sale_item ON sale (item);
CREATE INDEX item_name ON item (name);
SELECT kind, count(*), sum(amount * price) FROM item JOIN sale ON sale.item = item.id
GROUP BY kind ORDER BY 3 DESC LIMIT 5;
SELECT day, sum(amount) FROM sale GROUP BY day ORDER BY 2 DESC, 1 LIMIT 5;
SELECT count(*) FROM item a JOIN item b ON b.name = 'item ' || substr('0000' || (a.id % 10007), -5);
SELECT count(*), sum(length(name)) FROM item WHERE name LIKE '%77%' OR name GLOB '*[13]5*';
UPDATE sale SET amount = amount + 1 WHERE day BETWEEN 100 AND 200;
DELETE FROM sale WHERE item % 3 = 0;
SELECT count(*), sum(amount), max(item) FROM sale;
