// Makes millions of small objects; the argument is how many.
"use strict";

const count = Number(process.argv[2]) * 1000000;
const kept = [];
for (let i = 0; i < count; i++) kept.push({ id: i, next: kept[i >> 1] });
let sum = 0;
for (let i = 0; i < count; i += 7) sum += kept[i].next === undefined ? 0 : kept[i].next.id;
console.log(kept.length, sum);
