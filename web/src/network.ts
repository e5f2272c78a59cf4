// A network at a batch and a type: the document's formulas as numbers, summed over modules.

import type { Dimension, Fit, FitLayer, Formula, LayerRow, Machine, NetworkDocument, Regime } from "./data";

export const DTYPES: Record<string, { label: string; bytes: number; peak: string }> = {
  float64: { label: "fp64", bytes: 8, peak: "fp64" },
  float32: { label: "fp32", bytes: 4, peak: "fp32" },
  bfloat16: { label: "bf16", bytes: 2, peak: "bf16" },
  float16: { label: "fp16", bytes: 2, peak: "fp16" },
  int8: { label: "int8, as if", bytes: 1, peak: "int8" },
};
const FIXED: Record<string, number> = {
  int64: 8,
  int32: 4,
  int16: 2,
  int8: 1,
  uint8: 1,
  bool: 1,
  float64: 8,
  float16: 2,
};

/** What a layer, or all layers of a module together, cost. `seconds` is the roofline's, `measured`, `energy` and `cycles` are
 * undefined where nobody said. */
export interface Facts {
  macs: number;
  parameters: number;
  backward: number;
  read: number;
  written: number;
  saved: number;
  activations: number;
  operations: number;
  seconds: number;
  layers: number;
  measured?: number;
  energy?: number;
  cycles?: number;
}

const SUMMED = ["macs", "backward", "read", "written", "saved", "activations", "operations", "seconds", "layers"] as const;
const OPTIONAL = ["measured", "energy", "cycles"] as const;

export const intensity = (facts: Facts): number =>
  facts.read + facts.written ? (2 * facts.macs) / (facts.read + facts.written) : 0;

/** A node of the tree: a layer by its place, or a group by -1 - its place. */
export type Item = number;
export const groupItem = (group: number): Item => -1 - group;
export const isGroup = (item: Item): boolean => item < 0;
export const groupOf = (item: Item): number => -1 - item;

export function regimeOf(doc: NetworkDocument, batch: number, dtype: string): Regime | undefined {
  const type = dtype === "int8" ? "bfloat16" : dtype;
  return doc.regimes.find(
    (r) => r.batch[0] <= batch && (r.batch[1] ?? batch) >= batch && (!r.dtypes.length || r.dtypes.includes(type)),
  );
}

export class Network {
  readonly regime: Regime;
  readonly bytes: number;
  readonly facts: Facts[];
  readonly children: Item[][];
  readonly byName: Map<string, number>;
  readonly groupByPath: Map<string, number>;
  private readonly sums: (Facts | undefined)[] = [];
  private readonly under: number[][];
  private alive: number[] | undefined;
  private best: Map<string, FitLayer> | undefined;

  constructor(
    readonly doc: NetworkDocument,
    readonly batch: number,
    readonly dtype: string,
    readonly machine: Machine,
  ) {
    this.regime = regimeOf(doc, batch, dtype) ?? doc.regimes[0];
    this.bytes = DTYPES[dtype]?.bytes ?? FIXED[dtype] ?? 4;
    const counted = new Set<number>();
    this.facts = this.regime.layers.map((row) => this.factsOf(row, counted));
    this.byName = new Map(this.regime.layers.map((row, i) => [row.name, i]));
    this.groupByPath = new Map(this.regime.groups.map((group, i) => [group.path, i]));
    this.children = this.regime.groups.map(() => []);
    this.under = this.regime.groups.map(() => []);
    this.gather();
  }

  /** Children in the order of execution: a group stands where its first layer does. */
  private gather(): void {
    const { layers, groups } = this.regime;
    const placed = new Set<Item>([groupItem(0)]);
    layers.forEach((row, i) => {
      let item: Item = i;
      for (let group = row.group; group >= 0; group = groups[group].parent) {
        this.under[group].push(i);
        if (!placed.has(item)) this.children[group].push(item);
        placed.add(item);
        item = groupItem(group);
      }
    });
  }

  value(formula: Formula | undefined): number {
    if (formula === undefined) return 0;
    if (typeof formula === "number") return formula;
    const [a, b, c, d] = formula;
    return a + b * this.batch + c * this.bytes + d * this.batch * this.bytes;
  }

  size(dimension: Dimension): number {
    return typeof dimension === "number" ? dimension : dimension[0] + dimension[1] * this.batch;
  }

  private factsOf(row: LayerRow, counted: Set<number>): Facts {
    const macs = this.value(row.macs);
    const read = this.value(row.read);
    const written = this.value(row.written);
    const operations = macs ? 2 * macs : this.value(row.ops);
    let saved = 0;
    for (const storage of row.saved ?? []) {
      if (!counted.has(storage)) saved += this.value(this.regime.storages[storage].bytes);
      counted.add(storage);
    }
    const facts: Facts = {
      macs,
      parameters: row.parameters ?? 0,
      backward: this.value(row.backward),
      read,
      written,
      saved,
      activations: this.value(row.activations),
      operations,
      seconds: read + written ? Math.max(operations / this.peak, (read + written) / this.machine.bandwidth) : 0,
      layers: 1,
    };
    const mapped = this.fitOf(row.name);
    if (mapped) Object.assign(facts, { energy: mapped.energy, cycles: mapped.cycles });
    const time = this.doc.measured?.seconds[row.name];
    if (time !== undefined && this.batch === this.doc.batch && this.dtype === "float32") facts.measured = time;
    return facts;
  }

  /** The best mapping of a layer, where the network was mapped at this batch. */
  fitOf(name: string): FitLayer | undefined {
    this.best ??= bestOf(this.doc.fit, this.batch);
    return this.best.get(name);
  }

  /** Operations per second of the machine for this type, or for the nearest type that it names. */
  get peak(): number {
    const { peak } = this.machine;
    const wanted = DTYPES[this.dtype]?.peak ?? "fp32";
    return peak[wanted] ?? peak.fp32 ?? peak.bf16 ?? peak.fp16 ?? Object.values(peak)[0];
  }

  layersUnder(group: number): number[] {
    return this.under[group];
  }

  of(item: Item): Facts {
    if (!isGroup(item)) return this.facts[item];
    const group = groupOf(item);
    const known = this.sums[group];
    if (known) return known;
    const sum = { parameters: 0 } as Facts;
    for (const key of SUMMED) sum[key] = 0;
    const weights = new Set<number>();
    for (const i of this.under[group]) {
      for (const key of SUMMED) sum[key] += this.facts[i][key];
      for (const key of OPTIONAL) {
        const more = this.facts[i][key];
        if (more !== undefined) sum[key] = (sum[key] ?? 0) + more;
      }
      for (const w of this.regime.layers[i].weights ?? []) weights.add(w);
    }
    for (const w of weights) sum.parameters += this.regime.weights[w].shape.reduce((a, b) => a * b, 1);
    this.sums[group] = sum;
    return sum;
  }

  get total(): Facts {
    return this.of(groupItem(0));
  }

  /** Parameters of the whole module, whether the call uses them or not. */
  get parameters(): number {
    return this.regime.weights.reduce((sum, w) => sum + w.shape.reduce((a, b) => a * b, 1), 0);
  }

  get weightBytes(): number {
    return this.regime.weights.reduce((sum, w) => sum + this.value(w.bytes), 0);
  }

  shapeOf(tensor: number): number[] {
    return this.regime.tensors[tensor].shape.map((n) => this.size(n));
  }

  dtypeOf(given: string): string {
    return given || this.dtype;
  }

  /** Bytes of activations alive while each layer runs. */
  get live(): number[] {
    if (this.alive) return this.alive;
    const { layers, storages } = this.regime;
    const change = new Array<number>(layers.length + 2).fill(0);
    for (const { bytes, born, freed } of storages) {
      const n = this.value(bytes);
      change[Math.max(born, 0)] += n;
      change[freed + 1] -= n;
    }
    let sum = 0;
    this.alive = layers.map((row, i) => {
      sum += change[i];
      return sum + this.value(row.workspace);
    });
    return this.alive;
  }

  get peakAt(): number {
    return this.live.reduce((best, n, i) => (n > this.live[best] ? i : best), 0);
  }

  name(item: Item): string {
    if (!isGroup(item)) return this.regime.layers[item].name;
    return this.regime.groups[groupOf(item)].path || this.doc.name;
  }

  label(item: Item): string {
    if (!isGroup(item)) return this.regime.layers[item].label;
    return this.regime.groups[groupOf(item)].label || this.doc.name;
  }

  /** The item of a name as `name` gives it. */
  find(name: string): Item | undefined {
    if (!name) return undefined;
    const layer = this.byName.get(name);
    if (layer !== undefined) return layer;
    const group = name === this.doc.name ? 0 : this.groupByPath.get(name);
    return group === undefined ? undefined : groupItem(group);
  }

  parentOf(item: Item): number {
    return isGroup(item) ? this.regime.groups[groupOf(item)].parent : this.regime.layers[item].group;
  }
}

function bestOf(fit: Fit | undefined, batch: number): Map<string, FitLayer> {
  const best = new Map<string, FitLayer>();
  if (!fit || fit.batch !== batch) return best;
  for (const layers of Object.values(fit.dataflows)) {
    for (const layer of layers) {
      const known = best.get(layer.name);
      const better = fit.objective === "cycles" ? layer.cycles < (known?.cycles ?? 0) : layer.energy < (known?.energy ?? 0);
      if (!known || better) best.set(layer.name, layer);
    }
  }
  return best;
}
