/** A bioclip-lite bundle: bundle.json and the files that it lists. */

import type {io} from '@tensorflow/tfjs-core';

import {download, modelArtifacts, openModel} from './folder.js';
import type {Download, Kind, ReadFolderOptions} from './folder.js';
import type {Model} from './model.js';
import type {Origin} from './origin.js';
import {type Prior, readPrior} from './prior.js';
import {readTaxa, type Table} from './taxa.js';
import {plantTree, type Tree} from './tree.js';
import type {BundleInfo} from './types.js';

const BUNDLE: Kind<BundleInfo> = {
  manifest: 'bundle.json',
  label: 'bundle',
  format: 2,
  uses: ({text, model, prior}) => [text?.file, model?.file, ...(prior ? [prior.file] : [])],
};

export interface Bundle {
  info: BundleInfo;
  model: Model;
  table: Table;
  tree: Tree;
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
  const {info, files} = found;
  const table = readTaxa(info, files.get(info.text.file));
  const tree = plantTree(info);
  const prior = readPrior(info, info.prior && files.get(info.prior.file));
  const model = await open(found, BUNDLE.manifest, signal);
  return {info, model, table, tree, prior};
}

/** Read the model of a bundle without loading it; bin/weights.mjs decodes its weights. */
export async function readModel(origin: Origin): Promise<io.ModelArtifacts> {
  const {info, files} = await downloadBundle(origin);
  return modelArtifacts(BUNDLE.manifest, info, files);
}
