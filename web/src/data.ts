// The documents that Lamina writes (lamina/serve/explorer/document.py), and what else a page is given.

/** A number, or [a, b, c, d]: a + b n + c s + d n s for a batch of n and numbers of s bytes. */
export type Formula = number | [number, number, number, number];
/** A number, or [a, b]: a + b n. */
export type Dimension = number | [number, number];

export interface Nest {
  loops: [string, Dimension][];
  operands: (number | string)[];
  stride?: number[];
  padding?: (number | [number, number])[];
  dilation?: number[];
  transposed?: boolean;
}

export interface LayerRow {
  name: string;
  label: string;
  group: number;
  kind: string;
  op: string;
  type?: string;
  attributes?: Record<string, unknown>;
  inputs: number[];
  outputs?: number[];
  weights?: number[];
  nests?: Nest[];
  parameters?: number;
  saved?: number[];
  macs?: Formula;
  backward?: Formula;
  activations?: Formula;
  read?: Formula;
  written?: Formula;
  ops?: Formula;
  workspace?: Formula;
}

export interface Group {
  path: string;
  label: string;
  type: string;
  parent: number;
}

export interface Regime {
  batch: [number, number | null];
  dtypes: string[];
  groups: Group[];
  layers: LayerRow[];
  tensors: { shape: Dimension[]; dtype: string; storage: number }[];
  weights: { names: string[]; shape: number[]; dtype: string; part: string; bytes: Formula }[];
  storages: { bytes: Formula; born: number; freed: number }[];
  inputs: number[];
  edges: [number, number, number][];
}

export interface FitLayer {
  name: string;
  dataflow: string;
  utilisation: number;
  cycles: number;
  energy: number;
  bound: string;
  note: string;
  macs: number;
  nests: { dataflow: string; mapping: string[] }[];
}

export interface Fit {
  accelerator: string;
  objective: string;
  unit: string;
  batch: number;
  elements: number;
  dataflows: Record<string, FitLayer[]>;
}

export interface Field {
  name: string;
  value: unknown;
  default: unknown;
  type: "int" | "float" | "bool" | "text" | "choice";
  choices?: string[];
}

export interface NetworkDocument {
  form: number;
  name: string;
  input: string;
  batch: number;
  dtype: string;
  why: string;
  mode: string;
  lifetime_rule: string;
  buffers: number;
  assumptions: string[];
  unknown: { op: string; layer: string }[];
  totals: Record<string, number>;
  regimes: Regime[];
  paper?: { title: string; venue: string; year: number };
  deviations?: string[];
  fields?: Field[];
  sizes?: Record<string, number>;
  fit?: Fit;
  live?: string[];
  measured?: { how: string; seconds: Record<string, number> };
}

export interface Machine {
  name: string;
  about: string;
  peak: Record<string, number>;
  bandwidth: number;
}

export interface ZooPoint {
  name: string;
  family: string;
  year: number;
  macs: number;
  parameters: number;
  top1: number;
  data: string;
}

export interface Change {
  status: "same" | "renamed" | "changed" | "removed" | "added";
  before: string;
  after: string;
  difference: string;
}

export interface Comparison {
  shared: number;
  layers: Change[];
}

/** What the page begins with. `served` pages ask their server for more. */
export interface Page {
  version: string;
  served: boolean;
  lecture: boolean; // whether the server has the lecture's page
  networks: NetworkDocument[];
  comparisons: Record<string, Comparison>;
  machines: Machine[];
  accelerators: string[];
  zoo: ZooPoint[];
}
