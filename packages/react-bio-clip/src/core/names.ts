import {BioClipError} from './errors.js';

/** Throw unless the name of a file that `manifest` lists stays within its folder, wherever it is joined to one. */
export function checkFileName(name: string, manifest: string): void {
  if (/^[\w.-]+$/.test(name) && !/^\.+$/.test(name)) return;
  throw new BioClipError(
    'bundle',
    `${manifest} lists a file ${JSON.stringify(name)}; names have letters, digits, dots, _ and - only: was it changed?`,
    manifest,
  );
}
