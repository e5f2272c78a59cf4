// Where the arrow keys lead.

import type { Box, Layout } from "./layout";
import { groupItem, groupOf, type Item, isGroup, type Network } from "./network";
import { childrenOf } from "./visible";

export interface Place {
  net: Network;
  open: ReadonlySet<string>;
  views: boolean;
}

/** The next item in a direction: down into an open group, along the edges, else the nearest box on that side. */
export function neighbour({ net, open, views }: Place, layout: Layout, item: Item | undefined, key: string): Item | undefined {
  const box = layout.boxes.find((b) => b.item === item);
  if (item === undefined || !box) return layout.boxes[0]?.item;
  if (key === "ArrowLeft" || key === "ArrowRight") return beside(net, layout, box, key === "ArrowRight" ? 1 : -1);
  const down = key === "ArrowDown";
  if (down && isGroup(item) && open.has(net.name(item))) return childrenOf(net, groupOf(item), views)[0];
  const along = layout.lines
    .filter((line) => (down ? line.from : line.to) === item)
    .map((line) => (down ? line.to : line.from))
    .filter((end): end is Item => typeof end === "number");
  if (along.length) return along[0];
  const above = net.parentOf(item);
  if (above <= 0) return undefined;
  return down ? after(net, layout, groupItem(above)) : groupItem(above);
}

/** What follows a group, or the first group around it that anything follows. */
function after(net: Network, layout: Layout, item: Item): Item | undefined {
  const line = layout.lines.find((l) => l.from === item && typeof l.to === "number");
  if (line) return line.to as Item;
  const above = net.parentOf(item);
  return above > 0 ? after(net, layout, groupItem(above)) : undefined;
}

function beside(net: Network, layout: Layout, box: Box, side: number): Item | undefined {
  const parent = net.parentOf(box.item);
  const found = layout.boxes.filter((b) => b !== box && net.parentOf(b.item) === parent && side * (b.x - box.x) > 4);
  const distance = (b: Box): number => Math.abs(b.x - box.x) + 3 * Math.abs(b.y - box.y);
  return found.sort((a, b) => distance(a) - distance(b))[0]?.item;
}
