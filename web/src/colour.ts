// Colours: kinds of layers (Okabe and Ito's, as lamina/report/plot.py has them), and a scale for figures (ColorBrewer's YlGnBu,
// which all kinds of colour vision can read), light to dark on paper and dark to light on a dark screen.

export const KINDS: Record<string, string> = {
  conv: "#2f7fc1",
  linear: "#d55e00",
  matmul: "#009e73",
  norm: "#c0609a",
  activation: "#a87900",
  softmax: "#8068c8",
  elementwise: "#7f7f7f",
  pool: "#2a93a5",
  embedding: "#b5544f",
  copy: "#6f8f2f",
  view: "#9a9a9a",
  other: "#9a9a9a",
};

const STOPS = ["#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494"];

export interface Theme {
  dark: boolean;
  paper: string;
  raised: string;
  ink: string;
  soft: string;
  line: string;
  link: string;
  mark: string;
}

export const LIGHT: Theme = {
  dark: false,
  paper: "#fdfcf9",
  raised: "#f5f3ed",
  ink: "#22242a",
  soft: "#5c616b",
  line: "#ddd9cf",
  link: "#1f5c96",
  mark: "#c04a00",
};
export const DARK: Theme = {
  dark: true,
  paper: "#16181c",
  raised: "#1e2126",
  ink: "#dfe1e5",
  soft: "#a0a6b0",
  line: "#343941",
  link: "#86b9ea",
  mark: "#ff9d4d",
};

type Rgb = [number, number, number];

const parse = (hex: string): Rgb => [1, 3, 5].map((i) => Number.parseInt(hex.slice(i, i + 2), 16)) as Rgb;

/** The scale's colour at 0 ... 1. */
export function heat(at: number, theme: Theme): string {
  const stops = theme.dark ? [...STOPS].reverse() : STOPS;
  const x = Math.min(1, Math.max(0, at)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(x));
  const [a, b] = [parse(stops[i]), parse(stops[i + 1])];
  const mixed = a.map((n, k) => Math.round(n + (b[k] - n) * (x - i)));
  return `#${mixed.map((n) => n.toString(16).padStart(2, "0")).join("")}`;
}

/** Black or white, whichever has the greater contrast (WCAG 2.2, relative luminance). */
export function inkOn(background: string): string {
  const [r, g, b] = parse(background).map((n) => {
    const c = n / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#14161a" : "#ffffff";
}

export function mix(a: string, b: string, share: number): string {
  const [x, y] = [parse(a), parse(b)];
  return `#${x
    .map((n, i) =>
      Math.round(n + (y[i] - n) * share)
        .toString(16)
        .padStart(2, "0"),
    )
    .join("")}`;
}

/** From values to 0 ... 1: logarithmic where they lie further apart than one scale can show. */
export class Scale {
  readonly low: number;
  readonly high: number;
  readonly log: boolean;

  constructor(values: number[]) {
    const positive = values.filter((v) => v > 0 && Number.isFinite(v));
    this.high = positive.reduce((a, b) => Math.max(a, b), 0);
    const least = positive.reduce((a, b) => Math.min(a, b), this.high);
    this.log = least > 0 && this.high / least > 30;
    this.low = this.log ? Math.max(least, this.high / 1e4) : 0;
  }

  at(value: number): number {
    if (!this.high || value <= 0) return 0;
    if (!this.log) return value / this.high;
    return Math.max(0, Math.log(value / this.low) / Math.log(this.high / this.low));
  }

  /** The value at 0 ... 1. */
  value(at: number): number {
    return this.log ? this.low * (this.high / this.low) ** at : at * this.high;
  }
}
