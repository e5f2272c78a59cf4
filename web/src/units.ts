// Numbers as text, as lamina/units.py writes them: decimal prefixes, three significant digits.

const PREFIXES: [number, string][] = [
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];

export function si(value: number, unit = ""): string {
  for (const [scale, prefix] of PREFIXES) {
    if (Math.abs(value) >= scale * 0.9995) return `${significant(value / scale)} ${prefix}${unit}`;
  }
  const text = Number.isInteger(value) ? String(value) : significant(value);
  return unit ? `${text} ${unit}` : text;
}

/** Three digits, never fewer than the integer part has. */
export function significant(value: number): string {
  if (value === 0) return "0";
  const text = Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(3);
  return text.includes("e") ? String(Number(text)) : text;
}

/** An exact count; beyond 2^53 a double no longer tells neighbours apart, and says so. */
export function count(value: number): string {
  const text = Math.round(value).toLocaleString("en-US");
  return Number.isSafeInteger(Math.round(value)) ? text : `≈ ${text}`;
}

export const bytes = (value: number): string => si(value, "B");

export function seconds(value: number): string {
  if (value >= 1 || value === 0) return `${significant(value)} s`;
  if (value >= 1e-3) return `${significant(value * 1e3)} ms`;
  if (value >= 1e-6) return `${significant(value * 1e6)} µs`;
  return `${significant(value * 1e9)} ns`;
}

export const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

export const shape = (sizes: number[]): string => (sizes.length ? sizes.join("×") : "scalar");
