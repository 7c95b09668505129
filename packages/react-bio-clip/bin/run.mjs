/** Shared by classify.mjs and browser.mjs: read options and images, write answers. */

import {createWriteStream, existsSync, mkdirSync, readFileSync, statSync} from 'node:fs';
import {writeFile} from 'node:fs/promises';
import {cpus} from 'node:os';
import path from 'node:path';
import {finished} from 'node:stream/promises';
import {parseArgs} from 'node:util';

import {imageFiles} from '../dist/core/node.js';

const OPTIONS = '[--top N] [--raw PREFIX] [--latency RUNS] [--backend NAME]';

/** Read the command line; `extra`: options of only one of the programs. */
export function readOptions(program, extra = {}) {
  const usage = `usage: ${program} BUNDLE (IMAGE | SHARD.tar)... ${OPTIONS}${Object.keys(extra)
    .map((name) => ` [--${name}]`)
    .join('')}`;
  const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {
      top: {type: 'string', default: '1'},
      raw: {type: 'string'},
      latency: {type: 'string', default: '0'},
      backend: {type: 'string', default: 'wasm'},
      ...extra,
    },
  });
  const [folder, ...files] = positionals;
  if (!files.length) throw new Error(usage);
  const [top, runs] = [Number(values.top), Number(values.latency)];
  if (!(Number.isInteger(top) && top > 0 && Number.isInteger(runs) && runs >= 0)) throw new Error(usage);
  if (values.raw) checkRaw(values.raw);
  return {...values, folder, files, top, runs};
}

/** Throw, before any work, if the files of --raw cannot be written, or would replace a file of another kind. */
function checkRaw(raw) {
  mkdirSync(path.dirname(raw), {recursive: true});
  for (const file of [`${raw}.json`, `${raw}.embeddings.f32`, `${raw}.logits.f32`]) {
    if (existsSync(file) && !statSync(file).isFile()) throw new Error(`${file} is not a file; choose another --raw`);
  }
  if (!existsSync(`${raw}.json`)) return;
  let earlier;
  try {
    earlier = JSON.parse(readFileSync(`${raw}.json`, 'utf8'));
  } catch {
    earlier = null;
  }
  if (!Array.isArray(earlier?.keys) || !('latency_ms' in earlier)) {
    throw new Error(
      `${raw}.json exists, is no report of an earlier run, and would be overwritten; choose another --raw`,
    );
  }
}

/** Describe the answer to one image as a line of JSON. */
function line(info, key, file, {taxa, ranks, answer}) {
  const [best] = taxa;
  const names = Object.entries(ranks).map(([rank, {path, probability}]) => [rank, {name: path.at(-1), probability}]);
  const common = info.languages.map((language) => best.commonNames[language]).find(Boolean) ?? null;
  return {
    key,
    file,
    taxon_id: best.id,
    name: best.name,
    rank: best.rank,
    common_name: common,
    probability: best.probability,
    answer: answer && {rank: answer.rank, name: answer.name, probability: answer.probability, ...remarks(answer)},
    ranks: Object.fromEntries(names),
    top: taxa.map((taxon) => ({
      ...{taxon_id: taxon.id, name: taxon.name, probability: taxon.probability},
      ...remarks(taxon),
    })),
  };
}

/** What the species list and the training say of an answer, where they say something. */
const remarks = ({isFinest, note, zeroShot}) => ({
  ...(isFinest ? {not_told_apart: true} : {}),
  ...(note ? {note} : {}),
  ...(zeroShot ? {zero_shot: true} : {}),
});

async function writeRow(stream, row) {
  const bytes = Buffer.from(row.buffer, row.byteOffset, row.byteLength);
  if (!stream.write(bytes)) await new Promise((resolve) => stream.once('drain', resolve));
}

/**
 * Classify all images and write the results.
 *
 * `engine.classify(bytes, file, top)` gives {embedding, logits, answer, at}, at: milliseconds of work since the program
 * or the page started. `engine.latency(bytes, file, runs)` gives {median, min, runs, preprocess} in milliseconds,
 * `engine.peak()` the peak memory of its process in bytes, or null. `engine.about` goes into the report.
 */
export async function run(engine, {files, top, raw, runs}) {
  const streams = raw && {
    embeddings: createWriteStream(`${raw}.embeddings.f32`),
    logits: createWriteStream(`${raw}.logits.f32`),
  };
  const keys = [];
  let first = null;
  let latency = null;
  for await (const {key, file, bytes} of imageFiles(files)) {
    const {embedding, logits, answer, at} = await engine.classify(bytes, file, top);
    first ??= at;
    if (runs && !latency) latency = await engine.latency(bytes, file, runs);
    if (streams) {
      await writeRow(streams.embeddings, embedding);
      await writeRow(streams.logits, logits);
    } else {
      console.log(JSON.stringify(line(engine.info, key, file, answer)));
    }
    keys.push(key);
  }
  if (!keys.length) throw new Error(`no image in ${files.join(', ')}`);
  if (streams) {
    for (const stream of Object.values(streams)) await finished(stream.end());
    const {info, backend, bytes, about} = engine;
    const [embedding, taxa] = [info.embedding, info.text.parts?.taxa ?? info.taxa.length];
    const report = {
      ...{keys, rows: keys.length, embedding, taxa, backend, latency_ms: latency, bytes},
      ...{first_ms: first, peak_bytes: await engine.peak(), processor: cpus()[0]?.model ?? null},
      ...about,
    };
    await writeFile(`${raw}.json`, `${JSON.stringify(report)}\n`); // last: it marks the others as complete
  } else if (latency) {
    console.error(`latency on ${engine.backend}: ${latency.median.toFixed(2)} ms (median of ${latency.runs})`);
  }
}
