import {loadBioClip} from '../index.js';
import type {BioClip, Source} from '../index.js';
import {useBioClipFrom} from './useBioClipFrom.js';
import type {UseBioClip, UseBioClipOptions} from './useBioClipFrom.js';

/** `useBioClipFrom` with `loadBioClip`: the model runs in the page itself, not in a worker. */
export function useBioClip(source: Source | null, options?: UseBioClipOptions): UseBioClip<BioClip> {
  return useBioClipFrom(loadBioClip, source, options);
}
