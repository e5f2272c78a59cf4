// Bundles src/ into the package: one script, one style sheet, and the licence of what is in them. `--check` writes nothing and
// fails where the committed files differ.
import { readFile, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const target = new URL("../lamina/serve/explorer/static/", import.meta.url);
const options = {
  bundle: true,
  minify: true,
  legalComments: "none",
  charset: "utf8",
  write: false,
  logLevel: "warning",
};

const script = await build({ ...options, entryPoints: ["src/main.ts"], format: "iife", target: "es2022" });
const style = await build({ ...options, entryPoints: ["src/style.css"], target: "es2022" });
const licences = await Promise.all(
  ["dagre", "graphlib"].map(async (name) => {
    const folder = new URL(`node_modules/@dagrejs/${name}/`, import.meta.url);
    const { version } = JSON.parse(await readFile(new URL("package.json", folder), "utf8"));
    return `@dagrejs/${name} ${version}\n\n${(await readFile(new URL("LICENSE", folder), "utf8")).trim()}\n`;
  }),
);
const files = {
  "explorer.js": script.outputFiles[0].text,
  "explorer.css": style.outputFiles[0].text,
  "LICENSES.txt": `What explorer.js contains besides Lamina's own source (web/src).\n\n${licences.join("\n")}`,
};

const differ = [];
for (const [name, text] of Object.entries(files)) {
  const place = new URL(name, target);
  if (!process.argv.includes("--check")) await writeFile(place, text);
  else if ((await readFile(place, "utf8").catch(() => "")) !== text) differ.push(name);
}
if (differ.length) {
  console.error(`not what web/ builds: ${differ.join(", ")}; run \`npm run build\` in web/`);
  process.exit(1);
}
