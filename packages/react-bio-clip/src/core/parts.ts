/**
 * The taxa of a bundle: one table, or parts by clade of which those are loaded that a photograph needs.
 * workflow/bioclip_lite/web/parts.py writes them and says which these are.
 */

import {abortable, BioClipError, throwIfAborted} from './errors.js';
import {readFile, type Download} from './folder.js';
import {progressOf} from './origin.js';
import {logits, readTable, readTaxa, type Table} from './taxa.js';
import {largest, plantTree, scientificName, type Tree} from './tree.js';
import type {BundleInfo, PreloadOptions, Taxon} from './types.js';

/** The rows that a photograph is compared with: taxa, and clades that stand for theirs. */
export interface Rows {
  /** The bundle's info, with these taxa. */
  info: BundleInfo;
  table: Table;
  tree: Tree;
  /** Rows of the whole table that each of these stands for. */
  sizes: number[];
  /** Names of the clades that should be loaded and could not be. */
  missing: string[];
}

export interface Taxa {
  /** Load what the photograph with this embedding needs. */
  rowsFor(embedding: Float32Array, signal?: AbortSignal): Promise<Rows>;
  /** Load the parts of the clades that are, or lie below, one of the names (default: all). */
  preload(names?: readonly string[], options?: PreloadOptions): Promise<void>;
}

interface Part {
  taxa: Taxon[];
  table: Table;
}

type Parts = NonNullable<BundleInfo['text']['parts']>;

/** Parts that are read at the same time; more would wait for each other, and a silent server is given up. */
const AT_ONCE = 8;

export function openTaxa(found: Download<BundleInfo>): Taxa {
  const {info, files} = found;
  const table = readTaxa(info, files.get(info.text.file));
  const {parts} = info.text;
  if (parts) return inParts(found, table, parts);
  const rows: Rows = {info, table, tree: plantTree(info), sizes: info.taxa.map(() => 1), missing: []};
  return {rowsFor: async () => rows, preload: async () => {}};
}

function inParts(found: Download<BundleInfo>, clades: Table, parts: Parts): Taxa {
  const {info} = found;
  const loading = new Map<number, Promise<Part>>();
  let last: {key: string; rows: Rows} | undefined;

  function load(clade: number): Promise<Part> {
    const known = loading.get(clade);
    if (known) return known;
    const part = readPart(found, parts.files[clade]!);
    loading.set(clade, part);
    part.catch(() => loading.delete(clade)); // the next photograph tries again
    return part;
  }

  return {
    async rowsFor(embedding, signal) {
      const scores = Float64Array.from(logits(info, clades, embedding));
      const chosen = largest(scores, parts.chosen).filter((clade) => parts.files[clade]);
      const read = chosen.map(async (clade) => [clade, await load(clade).catch(nothingIfAway)] as const);
      const loaded = new Map((await abortable(Promise.all(read), signal)).filter(([, part]) => part !== null));
      const key = [...loaded.keys()].sort((a, b) => a - b).join();
      const missing = chosen.filter((clade) => !loaded.has(clade)).map((clade) => nameOf(info.taxa[clade]!));
      if (last?.key !== key) last = {key, rows: merge(info, clades, parts, loaded as Map<number, Part>)};
      return {...last.rows, missing};
    },
    async preload(names, {signal, onProgress} = {}) {
      const wanted = cladesOf(info, names).filter((clade) => parts.files[clade]);
      const bytes = (clade: number) => info.files[parts.files[clade]!.file]!.bytes;
      const arrived = progressOf(
        wanted.reduce((sum, clade) => sum + bytes(clade), 0),
        onProgress,
      );
      for (let at = 0; at < wanted.length; at += AT_ONCE) {
        throwIfAborted(signal);
        const some = wanted.slice(at, at + AT_ONCE);
        await abortable(Promise.all(some.map((clade) => load(clade).then(() => arrived(bytes(clade))))), signal);
      }
    },
  };
}

/** Read the table of a part, and the taxa behind it. */
async function readPart(found: Download<BundleInfo>, {file, rows}: {file: string; rows: number}): Promise<Part> {
  const {origin, info} = found;
  const bytes = await readFile(origin, 'bundle.json', info, file, {});
  const {dtype, columns} = info.text;
  const because = `bundle.json says that ${file} has ${rows} taxa`;
  const size = rows * (4 + columns);
  const table = readTable({file, dtype, rows, columns}, bytes.subarray(0, size), {rows, columns, because});
  const taxa: Taxon[] = JSON.parse(new TextDecoder().decode(bytes.subarray(size)));
  if (taxa.length !== rows) throw new BioClipError('bundle', `${file} names ${taxa.length} taxa; ${because}`, file);
  return {taxa, table};
}

/** A part that cannot be fetched leaves its clade to stand for its taxa; one that is damaged is an error. */
function nothingIfAway(error: unknown): null {
  if (error instanceof BioClipError && ['unreachable', 'timeout'].includes(error.code)) return null;
  throw error;
}

/** The whole table, with one row in place of each clade that is not loaded. */
function merge(info: BundleInfo, clades: Table, parts: Parts, loaded: Map<number, Part>): Rows {
  const {columns} = info.text;
  const pieces = info.taxa.map((taxon, i) => {
    const row = {scale: clades.scale.subarray(i, i + 1), rows: clades.rows.subarray(i * columns, (i + 1) * columns)};
    return loaded.get(i) ?? {taxa: [taxon], table: row};
  });
  const taxa = pieces.flatMap((piece) => piece.taxa);
  const table = {scale: new Float32Array(taxa.length), rows: new Int8Array(taxa.length * columns)};
  let at = 0;
  for (const {table: piece} of pieces) {
    table.scale.set(piece.scale, at);
    table.rows.set(piece.rows, at * columns);
    at += piece.scale.length;
  }
  const sizes = pieces.flatMap(({taxa: own}, i) => (loaded.has(i) ? own.map(() => 1) : [parts.files[i]?.rows ?? 1]));
  const merged = {...info, taxa};
  return {info: merged, table, tree: plantTree(merged), sizes, missing: []};
}

const nameOf = ({ranks}: Taxon) => scientificName(ranks);

/** Numbers of the clades that are, or lie below, one of the names. */
function cladesOf({taxa}: BundleInfo, names?: readonly string[]): number[] {
  for (const name of names ?? []) {
    if (!taxa.some(({ranks}) => ranks.includes(name))) {
      throw new BioClipError(
        'argument',
        `${name} is no clade of this bundle, and none of its clades lies below it; give the name of a higher rank`,
      );
    }
  }
  return [...taxa.keys()].filter((i) => !names || names.some((name) => taxa[i]!.ranks.includes(name)));
}
