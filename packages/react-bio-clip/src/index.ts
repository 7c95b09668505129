/** react-bio-clip: photographs in, taxa out. See ../README.md. */

import {startBackend} from './core/backend.js';
import {openBioClip} from './core/clip.js';
import {openTextEncoder} from './core/text.js';
import type {BioClip, BioClipText, LoadOptions, Source, TextLoadOptions, TextSource} from './core/types.js';

export {BioClipError} from './core/errors.js';
export type {BioClipErrorCode} from './core/errors.js';
export {fetchReader} from './core/origin.js';
export {preprocessImage, resizeAndCrop} from './core/preprocess.js';
export {recalibrate} from './core/site.js';
export type * from './core/site.js';
export {compareTexts} from './core/text.js';
export {scientificName} from './core/tree.js';
export type * from './core/types.js';
export {loadInWorker} from './core/worker-client.js';

/**
 * Load a bundle.
 * @throws BioClipError that names the file and what is wrong with it; the signal's reason when it is aborted
 */
export async function loadBioClip(source: Source, options: LoadOptions = {}): Promise<BioClip> {
  return openBioClip(source, options, startBackend(options));
}

/**
 * Load a text encoder, for classes in your own words.
 * @throws BioClipError as `loadBioClip`, and if the encoder and the bundle of `options.for` have different teachers
 */
export async function loadTextEncoder(source: TextSource, options: TextLoadOptions = {}): Promise<BioClipText> {
  return openTextEncoder(source, options, startBackend(options));
}
