/** The content of a bundle, and the inputs and outputs of a classifier. */

import type {Tensor3D} from '@tensorflow/tfjs-core';

/** Rows from the top; 3 (RGB) or 4 (RGBA, as ImageData; alpha is ignored) bytes per pixel. */
export interface Pixels {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

/** preprocess.json: how an image becomes the model's input. */
export interface Preprocess {
  size: number;
  resize: 'shortest' | 'squash';
  interpolation: 'bicubic' | 'bilinear';
  crop: 'center';
  mean: number[];
  std: number[];
}

/** A leaf of the tree, one row of the text matrix. `ranks` is its path, null where a rank has no name. */
export interface Taxon {
  id: string;
  ranks: (string | null)[];
  common_names: Record<string, string>;
  rank: string;
  /** No photograph of it was learned from: the teacher's text tower alone names it. */
  zero_shot?: true;
  /** Never named below this rank, because the species list does not tell it from its relatives there. */
  finest_rank?: string;
  /** From the species list. */
  note?: string;
  /** Taxa that this row counts as: species that a genus replaces, or those of a clade that is not loaded. */
  stands_for?: number;
}

export interface Thresholds {
  level: number;
  confidence?: number;
  ranks: Record<string, number | null>;
}

/** Latitude and longitude of a photograph, in degrees (WGS 84). */
export interface Place {
  latitude: number;
  longitude: number;
}

/** Counts of occurrences by cell and month, and how much they count: probabilities times prior ** weight. */
export interface PriorInfo {
  file: string;
  /** Size of the cells in degrees. */
  cell: number;
  weight: number;
  /** No taxon is taken to be less than this much as likely there as the likeliest one. */
  floor: number;
  temperature: number;
  /** As those of the bundle, for photographs whose place and month count. */
  thresholds: Thresholds;
}

/** bundle.json, format 2; 3 if its table is in parts. */
export interface BundleInfo {
  format: number;
  preprocess: Preprocess;
  embedding: number;
  logit_scale: number;
  /** Probabilities are softmax(logit_scale / temperature * text . embedding). */
  temperature: number;
  /**
   * The lowest rank whose best node is at least this probable is the answer; null: never this rank. Without thresholds
   * the bundle is not calibrated, and there is no answer but with `minConfidence`.
   */
  thresholds: Thresholds | null;
  /**
   * Fitted for photographs of which a `share` shows what is not on the list: by rank, slope and offset of the logistic
   * function of the largest logit, and thresholds. Null or missing: not fitted.
   */
  off_list?: {
    share: number;
    level: number;
    confidence: number;
    known: Record<string, [number, number]>;
    ranks: Record<string, number | null>;
  } | null;
  ranks: string[];
  languages: string[];
  /** In tree order: the taxa below one node are neighbours. Clades, if the table is in parts. */
  taxa: Taxon[];
  text: {
    file: string;
    dtype: string;
    rows: number;
    columns: number;
    prompt?: string;
    /**
     * For each of `taxa` the file with the rows and entries of its taxa; null: it is one. The taxa of the `chosen` clades
     * that are nearest to a photograph answer. `taxa` and `zero_shot` count those of all parts.
     */
    parts?: {chosen: number; taxa: number; zero_shot: number; files: ({file: string; rows: number} | null)[]};
  };
  prior?: PriorInfo;
  model: {file: string; nodes?: number; operations?: Record<string, number>; macs?: number; parameters?: number};
  files: Record<string, {bytes: number; sha256: string}>;
  /** Size of all files but bundle.json. */
  bytes: number;
  licences?: Record<string, unknown>;
  attribution?: unknown[];
  provenance?: Record<string, unknown>;
}

/** text.json, format 1: a text encoder for bundles of the same teacher. */
export interface TextInfo {
  format: number;
  model: {file: string; nodes?: number; operations?: Record<string, number>; macs?: number; parameters?: number};
  /** A row for each token; the files one after the other are one table. */
  tokens: {files: string[]; dtype: string; rows: number; columns: number};
  positions: {file: string};
  merges: {file: string};
  /** Number of tokens that are read; the rest of a longer text is ignored. */
  context: number;
  /** Whether the model takes one more number for each token: 1 up to the end of the text, 0 behind it. */
  hides_padding?: boolean;
  embedding: number;
  /** Equal to provenance.teacher_identity of bundles whose photographs can be compared. */
  teacher_identity: string;
  files: Record<string, {bytes: number; sha256: string}>;
  /** Size of all files but text.json. */
  bytes: number;
  licences?: Record<string, unknown>;
  provenance?: Record<string, unknown>;
}

export interface ReadOptions {
  signal?: AbortSignal | undefined;
  /** Called with the number of bytes that arrived since the last call. */
  onBytes?: ((bytes: number) => void) | undefined;
}

/** The bytes of one file of the folder, by name. */
export type Reader = (name: string, options?: ReadOptions) => Promise<ArrayBuffer | Uint8Array>;

/** A bundle that is part of an application. Files are bytes, or addresses that `fetch` reads. */
export interface Bundled {
  bundle: BundleInfo;
  files: Record<string, ArrayBuffer | Uint8Array | string>;
}

/** The same for a text encoder. */
export interface BundledText {
  text: TextInfo;
  files: Record<string, ArrayBuffer | Uint8Array | string>;
}

/** The address of the bundle's folder, whose query is that of each file; a function that reads its files, or the files themselves. */
export type Source = string | URL | Reader | Bundled;
export type TextSource = string | URL | Reader | BundledText;

/** Bytes of the download so far, including files from the offline cache. */
export interface Progress {
  loaded: number;
  total: number;
}

export interface LoadOptions {
  /** Name of a TensorFlow.js backend: wasm (default), or any that is registered: webgl, webgpu, cpu ... */
  backend?: string | undefined;
  /** Location of the WebAssembly files, as for setWasmPaths: a prefix, whose query stays last, or an address for each. */
  wasmPaths?: string | Record<string, string> | undefined;
  /**
   * Threads of WebAssembly (default 1), in a cross-origin isolated page whose bundler leaves them working. If they do
   * not start, one is used and the console says so. The first load of a page decides.
   */
  threads?: number | undefined;
  /** SHA-256 of bundle.json or text.json, 64 hexadecimal digits: another file is refused. */
  integrity?: string | undefined;
  /** Ed25519 public key in PEM: a bundle.json or text.json that was not signed with it is refused. */
  publicKey?: string | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
  signal?: AbortSignal | undefined;
}

export interface TextLoadOptions extends LoadOptions {
  /** `info` of the classifier: loading fails at once if the two are of different teachers. */
  for?: BundleInfo | undefined;
}

export interface CallOptions {
  signal?: AbortSignal | undefined;
}

export interface PreloadOptions extends CallOptions {
  onProgress?: (progress: Progress) => void;
}

export interface ClassifyOptions extends CallOptions {
  /** Number of candidates (default 5). */
  topK?: number | undefined;
  /** Rank of the candidates, and the lowest rank of the answer (default: the taxa themselves). */
  rank?: string | undefined;
  /** Least probability of the answer at every rank, in place of the calibrated thresholds. */
  minConfidence?: number | undefined;
  /**
   * Expect photographs of what is not on the list: `answer` and `ranks` count it, and an answer has the thresholds that
   * were fitted for it. Without effect with `minConfidence` or `thresholds`, where place and date count, and for a bundle
   * that has none (`info.off_list`).
   */
  offList?: boolean | undefined;
  /** By rank, in place of the calibrated ones: those of your site (`recalibrate`). */
  thresholds?: Thresholds['ranks'] | undefined;
  /** The place of the photograph. Counts if the bundle has a prior, `date` is given too, and the prior knows both. */
  place?: Place | undefined;
  /** When it was taken: a Date, or a text that begins with year and month, 2026-05. */
  date?: Date | string | undefined;
}

/** A photograph, at its own size. A tensor is height x width x 3 or 4: int32 in 0..255, or float32 in 0..1. */
export type ImageInput =
  | HTMLImageElement
  | HTMLVideoElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | ImageBitmap
  | ImageData
  | Blob
  | Pixels
  | Tensor3D;

/** A node of the tree. `path` ends with the node's own name; `name` of a species is its binomial. */
export interface Node {
  name: string;
  path: (string | null)[];
  probability: number;
}

export interface Candidate extends Node {
  /** null for a node that is no taxon of the bundle, such as the family of its species. */
  id: string | null;
  rank: string;
  /** By language. */
  commonNames: Record<string, string>;
  /** No photograph of it, or of any taxon below it, was learned from: the teacher's text tower alone names it. */
  zeroShot: boolean;
  /** The most probable taxon below it is not named below this rank. */
  isFinest: boolean;
  /** The note of the species list on that taxon, if this node is as fine as it may be named; else null. */
  note: string | null;
  /** The prior has all taxa below it, but not around the place or not around the month. */
  unexpected?: true;
}

export interface Answer {
  /**
   * The most probable first. Taxa with a `finest_rank` above the rank asked for give way to their node there: they count
   * together, and its probability is that of all taxa below it.
   */
  taxa: Candidate[];
  /** The most probable node of each rank; each rank is judged alone. None where taxa not named there are more probable. */
  ranks: Record<string, Node>;
  /** The node of the lowest rank that reaches its threshold, or null. */
  answer: Candidate | null;
  /**
   * Probability that the photograph shows a taxon of the list; below 0.5 it probably shows none. Missing where that was
   * not fitted.
   */
  onList?: number;
  /** Place and month have counted. */
  placed?: true;
  /** Clades whose taxa would have been compared and cannot be fetched: no answer is below them, and nothing is promised. */
  missing?: string[];
}

/** A loaded classifier. Calls may overlap: they are answered one after the other. */
export interface BioClip {
  readonly info: BundleInfo;
  /** SHA-256 of bundle.json, in hexadecimal: it tells which model this is. */
  readonly sha256: string;
  readonly backend: string;
  /** Name what a photograph shows, or what several photographs of one individual show together. */
  classify(image: ImageInput | readonly ImageInput[], options?: ClassifyOptions): Promise<Answer>;
  /** The unit embedding of an image, of length info.embedding. */
  embed(image: ImageInput, options?: CallOptions): Promise<Float32Array>;
  /**
   * Load, and store for offline use, the taxa of a bundle whose table is in parts: all, or those of clades by their
   * scientific names. Without effect for other bundles, which are loaded whole.
   */
  preload(names?: readonly string[], options?: PreloadOptions): Promise<void>;
  /** Free the memory; waiting and later calls fail. */
  dispose(): void;
}

/** A loaded text encoder. Calls may overlap: they are answered one after the other. */
export interface BioClipText {
  readonly info: TextInfo;
  readonly backend: string;
  /** The unit embeddings of texts, each of length info.embedding. */
  embed(texts: readonly string[], options?: CallOptions): Promise<Float32Array[]>;
  /** Free the memory; waiting and later calls fail. */
  dispose(): void;
}
