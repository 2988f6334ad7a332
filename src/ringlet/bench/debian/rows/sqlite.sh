# A database in memory with N rows: inserts, an index, joins, groups.
prepare() { sed "s/:rows/$N/g" /bench/files/memory.sql >memory.sql; }

run() { sqlite3 :memory: <memory.sql; }
