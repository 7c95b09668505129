/** Tables of vectors, stored as int8 with a scale per row: the text matrix of a bundle has one row per taxon. */

import {BioClipError} from './errors.js';
import type {Expectation} from './prior.js';
import type {BundleInfo} from './types.js';

export interface Table {
  /** One per row. */
  scale: Float32Array;
  /** Row by row. */
  rows: Int8Array;
}

/** Read a table: the float32 scale of each row, then int8 rows x columns, whose counts must be as in `wanted`. */
export function readTable(
  {file, dtype, rows, columns}: {file: string; dtype: string; rows: number; columns: number},
  bytes: Uint8Array<ArrayBuffer> | undefined,
  wanted: {rows: number; columns: number; because: string},
): Table {
  if (dtype !== 'int8') {
    throw new BioClipError(
      'bundle',
      `${file} holds numbers of type ${dtype}, which this version does not support`,
      file,
    );
  }
  if (rows !== wanted.rows || columns !== wanted.columns || bytes?.length !== rows * (4 + columns)) {
    throw new BioClipError(
      'bundle',
      `${file} has ${bytes?.length} bytes for ${rows} x ${columns} numbers; ${wanted.because}: they do not belong ` +
        'together',
      file,
    );
  }
  const whole = new Uint8Array(bytes); // float32 must start at a multiple of 4; the slice of a Buffer is no copy
  return {scale: new Float32Array(whole.buffer, 0, rows), rows: new Int8Array(whole.buffer, rows * 4)};
}

/** The text matrix of a bundle. */
export function readTaxa(info: BundleInfo, bytes: Uint8Array<ArrayBuffer> | undefined): Table {
  const [rows, columns] = [info.taxa.length, info.embedding];
  const because = `bundle.json lists ${rows} taxa and embeddings of ${columns} numbers`;
  return readTable(info.text, bytes, {rows, columns, because});
}

/** logit_scale * text . embedding for each taxon, in the order of info.taxa; without the temperature. */
export function logits(info: BundleInfo, {scale, rows}: Table, embedding: Float32Array): Float32Array {
  const columns = embedding.length;
  const found = new Float32Array(scale.length);
  for (let row = 0, at = 0; row < found.length; row++) {
    let sum = 0;
    for (let c = 0; c < columns; c++, at++) sum += rows[at]! * embedding[c]!;
    found[row] = info.logit_scale * scale[row]! * sum;
  }
  return found;
}

/**
 * Probabilities of the rows from their logits, one counting as the taxa that it stands for; with the prior where place
 * and month are expected to tell something.
 */
export function probabilitiesOf(info: BundleInfo, scores: Float32Array, expected?: Expectation): Float64Array {
  const {prior} = info;
  const counts = (i: number) => info.taxa[i]!.stands_for ?? 1;
  if (!prior || !expected) return softmax(scores, info.temperature, counts);
  const {share} = expected;
  return softmax(
    Float64Array.from(scores, (score, i) => score / prior.temperature + prior.weight * Math.log(share[i]!)),
    1,
    counts,
  );
}

/** Float64 probabilities that sum to one, of values that count once, or as often as `counts` says of each. */
export function softmax(
  values: Float32Array | Float64Array,
  temperature: number,
  counts: (i: number) => number = () => 1,
): Float64Array {
  let largest = -Infinity;
  for (const value of values) largest = Math.max(largest, value);
  const powers = Float64Array.from(values, (value, i) => Math.exp((value - largest) / temperature) * counts(i));
  let sum = 0;
  for (const power of powers) sum += power;
  return powers.map((power) => power / sum);
}
