/** react-bio-clip: photographs in, taxa out. See ../README.md. */

import {useBackend} from './core/backend.js';
import {openBioClip} from './core/clip.js';
import type {BioClip, LoadOptions, Source} from './core/types.js';

export {BioClipError} from './core/errors.js';
export {fetchReader} from './core/origin.js';
export {preprocessImage, resizeAndCrop} from './core/preprocess.js';
export {scientificName} from './core/tree.js';
export type * from './core/types.js';
export {loadInWorker} from './core/worker-client.js';

/**
 * Load a bundle.
 * @throws BioClipError that names the file and what is wrong with it; the signal's reason when it is aborted
 */
export async function loadBioClip(source: Source, options: LoadOptions = {}): Promise<BioClip> {
  return openBioClip(source, options, useBackend(options));
}
