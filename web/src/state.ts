// What the page shows, as it stands in the address: a link shows the same again.

export interface State {
  net: string;
  beside: string; // a second network, "" for none
  batch: number; // 0: the network's own
  dtype: string; // "": the network's own
  heat: string;
  tab: string;
  chosen: string;
  open: string[] | undefined; // undefined: as it opens
  views: boolean;
  view: string; // of the graph: what is in the middle, and the scale; "" while nobody has moved it
  theme: "auto" | "light" | "dark";
  machine: string;
  peak: number; // 0: the machine's
  bandwidth: number;
  year: number; // of the map of the zoo; 0: all
  sort: string; // of the table, "-" before it for descending
  changes: Record<string, string>; // of the configuration, and "resolution" or "sequence"
}

export const START: State = {
  net: "",
  beside: "",
  batch: 0,
  dtype: "",
  heat: "macs",
  tab: "layer",
  chosen: "",
  open: undefined,
  views: false,
  view: "",
  theme: "auto",
  machine: "",
  peak: 0,
  bandwidth: 0,
  year: 0,
  sort: "",
  changes: {},
};

const CHANGE = "set.";

export function read(address: string): State {
  const given = new URLSearchParams(address.replace(/^#/, ""));
  const state: State = { ...START, changes: {} };
  const number = (key: string): number => {
    const value = Number(given.get(key));
    return Number.isFinite(value) && value > 0 ? value : 0;
  };
  for (const key of ["net", "beside", "dtype", "heat", "tab", "chosen", "machine", "sort", "view"] as const) {
    state[key] = given.get(key) ?? START[key];
  }
  for (const key of ["batch", "peak", "bandwidth", "year"] as const) state[key] = number(key);
  state.batch = Math.min(65536, Math.floor(state.batch));
  state.views = given.get("views") === "1";
  const theme = given.get("theme");
  if (theme === "light" || theme === "dark") state.theme = theme;
  const open = given.get("open");
  if (open !== null) state.open = open ? open.split(",") : [];
  for (const [key, value] of given) if (key.startsWith(CHANGE)) state.changes[key.slice(CHANGE.length)] = value;
  return state;
}

export function write(state: State): string {
  const result = new URLSearchParams();
  for (const key of Object.keys(START) as (keyof State)[]) {
    const value = state[key];
    if (key === "open" || key === "changes" || value === START[key]) continue;
    result.set(key, value === true ? "1" : String(value));
  }
  if (state.open !== undefined) result.set("open", state.open.join(","));
  for (const [key, value] of Object.entries(state.changes)) result.set(CHANGE + key, value);
  return `#${result.toString().replaceAll("%2C", ",").replaceAll("%2F", "/").replaceAll("%3A", ":")}`;
}
