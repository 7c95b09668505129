'use client';

/** React: hooks that load a model, and a camera that classifies with it. */

export {BioClipCamera} from './BioClipCamera.js';
export type {BioClipCameraProps, CameraLabels, CameraView} from './BioClipCamera.js';
export {useBioClip} from './useBioClip.js';
export {useBioClipFrom} from './useBioClipFrom.js';
export type {Loader, UseBioClip, UseBioClipOptions} from './useBioClipFrom.js';
