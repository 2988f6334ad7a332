// A module with the usual kinds of code; MODULE is replaced by a name.
const table = new Map([["first", 1], ["second", 2], ["third", 3]]);

export class ShapeOfMODULE {
  #width = 0;
  constructor(width, { height = 2, ...others } = {}) {
    this.#width = width;
    this.height = height;
    Object.assign(this, others);
  }
  get area() { return this.#width * this.height; }
  static from(text) {
    const [, width, height] = /^(\d+)x(\d+)$/u.exec(text) ?? [null, "1", "1"];
    return new ShapeOfMODULE(Number(width), { height: Number(height), origin: text });
  }
}

function* fibonacci(limit) {
  let [before, current] = [0, 1];
  while (current < limit) {
    yield current;
    [before, current] = [current, before + current];
  }
}

async function unusedInMODULE(list) {
  for await (const entry of list) {
    try {
      if (entry?.value !== undefined) return entry.value ** 2;
    } catch (error) {
      console.error(`no value: ${error.message}`);
    } finally {
      table.delete("first");
    }
  }
  return null;
}

export function MODULE(start) {
  let total = start;
  for (const number of fibonacci(1000)) {
    switch (number % 4) {
      case 0: total += number; break;
      case 1: total ^= number << 2; break;
      default: total -= table.get("second") ?? 0;
    }
  }
  const shape = ShapeOfMODULE.from(`${total & 15}x${table.size}`);
  return [shape.area, total].map((value) => value * 3).reduce((a, b) => a + b, 0) % 1000003;
}
