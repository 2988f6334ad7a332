// Calls, numbers, strings, maps, a sort; the argument is the number of rounds.
"use strict";

function fibonacci(n) {
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

function primes(limit) {
  const sieve = new Uint8Array(limit);
  let count = 0;
  for (let i = 2; i < limit; i++) {
    if (sieve[i]) continue;
    count++;
    for (let j = i * 2; j < limit; j += i) sieve[j] = 1;
  }
  return count;
}

function words(count) {
  const seen = new Map();
  let state = 7;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    const word = (state >> 12).toString(36);
    seen.set(word, (seen.get(word) ?? 0) + 1);
  }
  let text = "";
  for (const [word, times] of seen) if (times > 2) text += word.toUpperCase();
  return `${seen.size} ${text.length} ${text.replace(/[AEIOU]+/g, "").length}`;
}

function sorted(count) {
  const values = [];
  for (let i = 0; i < count; i++) values.push((i * 7919) % 1000003 + 0.5);
  values.sort((a, b) => a - b);
  return values[count >> 1];
}

function matrix(size) {
  const a = new Float64Array(size * size).map((_, i) => (i % 17) / 16);
  const c = new Float64Array(size * size);
  for (let i = 0; i < size; i++)
    for (let k = 0; k < size; k++)
      for (let j = 0; j < size; j++) c[i * size + j] += a[i * size + k] * a[k * size + j];
  return c[size + 1];
}

for (let round = 1; round <= Number(process.argv[2]); round++)
  console.log(round, fibonacci(27), primes(400000), words(120000), sorted(60000), matrix(160));
