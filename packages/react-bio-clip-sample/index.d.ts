import type {Bundled} from 'react-bio-clip';

/** A photograph of the sample's test split, a JPEG file: `new Blob([photo])` in a page, `decode(photo)` in Node. */
export const photo: Uint8Array<ArrayBuffer>;
/** The name of what it shows. */
export const shows: string;
/** The bundle, for `loadBioClip`. */
declare const sample: Bundled;
export default sample;
