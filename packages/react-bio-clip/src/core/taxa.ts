/** The text matrix: one row per taxon, stored as int8 with a scale. */

import {BioClipError} from './errors.js';
import type {BundleInfo} from './types.js';

export interface Table {
  /** One per taxon. */
  scale: Float32Array;
  /** Taxa x embedding, row by row. */
  rows: Int8Array;
}

/** Float32 scale of each row, then int8 rows x columns. */
export function readTable(info: BundleInfo, bytes: Uint8Array<ArrayBuffer> | undefined): Table {
  const {rows, columns, dtype, file} = info.text;
  if (dtype !== 'int8') {
    throw new BioClipError(`${file} holds numbers of type ${dtype}, which this version does not know`, file);
  }
  if (rows !== info.taxa.length || columns !== info.embedding || bytes?.length !== rows * (4 + columns)) {
    throw new BioClipError(
      `${file} has ${bytes?.length} bytes for ${rows} x ${columns} numbers; bundle.json lists ${info.taxa.length} taxa ` +
        `and embeddings of ${info.embedding} numbers: they do not belong together`,
      file,
    );
  }
  const whole = bytes.slice(); // float32 must start at a multiple of 4
  return {scale: new Float32Array(whole.buffer, 0, rows), rows: new Int8Array(whole.buffer, rows * 4)};
}

/** logit_scale * text . embedding for each taxon, in the order of info.taxa; without the temperature. */
export function logits(info: BundleInfo, {scale, rows}: Table, embedding: Float32Array): Float32Array {
  const columns = embedding.length;
  const found = new Float32Array(scale.length);
  for (let row = 0, at = 0; row < found.length; row++) {
    let sum = 0;
    for (let c = 0; c < columns; c++, at++) sum += rows[at] * embedding[c];
    found[row] = info.logit_scale * scale[row] * sum;
  }
  return found;
}

/** Float64 probabilities that sum to one. */
export function softmax(values: Float32Array, temperature: number): Float64Array {
  let largest = -Infinity;
  for (const value of values) largest = Math.max(largest, value);
  const powers = Float64Array.from(values, (value) => Math.exp((value - largest) / temperature));
  let sum = 0;
  for (const power of powers) sum += power;
  return powers.map((power) => power / sum);
}
