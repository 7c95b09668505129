/** A bioclip-lite bundle: bundle.json and the files that it lists. */

import type {io} from '@tensorflow/tfjs-core';

import {download, modelArtifacts, openModel} from './folder.js';
import type {Download, Kind, ReadFolderOptions} from './folder.js';
import type {Model} from './model.js';
import type {Origin} from './origin.js';
import {openTaxa, type Taxa} from './parts.js';
import {type Prior, readPrior} from './prior.js';
import {sha256} from './sha256.js';
import type {BundleInfo} from './types.js';

const BUNDLE: Kind<BundleInfo> = {
  manifest: 'bundle.json',
  label: 'bundle',
  formats: [2, 3], // 3: its table is in parts
  uses: (info) => [info.text?.file, info.model?.file, ...(info.prior ? [info.prior.file] : []), ...partsOf(info)],
  later: partsOf,
};

/** Names of the parts of the table. */
function partsOf({text}: BundleInfo): string[] {
  return (text?.parts?.files ?? []).flatMap((part) => (part ? [part.file] : []));
}

export interface Bundle {
  info: BundleInfo;
  /** SHA-256 of bundle.json. */
  sha256: string;
  model: Model;
  taxa: Taxa;
  /** The prior of place and month, if the bundle has one. */
  prior: Prior | undefined;
}

/** Load a bundle on the current TensorFlow.js backend. */
export async function openBundle(origin: Origin, options: ReadFolderOptions = {}): Promise<Bundle> {
  return openDownload(await downloadBundle(origin, options), options.signal);
}

/** Read all files of a bundle; needs no backend. */
export function downloadBundle(origin: Origin, options: ReadFolderOptions = {}): Promise<Download<BundleInfo>> {
  return download(origin, BUNDLE, options);
}

/** Load the model of a bundle, given its name in the manifest. */
export type OpenModel = typeof openModel<BundleInfo>;

/** Load downloaded files, on the current TensorFlow.js backend unless `open` uses another runtime. */
export async function openDownload(
  found: Download<BundleInfo>,
  signal?: AbortSignal,
  open: OpenModel = openModel,
): Promise<Bundle> {
  const {info, text, files} = found;
  const taxa = openTaxa(found);
  const prior = readPrior(info, info.prior && files.get(info.prior.file));
  const model = await open(found, BUNDLE.manifest, signal);
  return {info, sha256: await sha256(text), model, taxa, prior};
}

/** Read the model of a bundle without loading it; bin/weights.mjs decodes its weights. */
export async function readModel(origin: Origin): Promise<io.ModelArtifacts> {
  const {info, files} = await downloadBundle(origin);
  return modelArtifacts(BUNDLE.manifest, info, files);
}
