/** The adapter for Expo, and React Native with its modules: files in the application, JPEG decoded in JavaScript. */

import {Asset} from 'expo-asset';
import {decode} from 'jpeg-js';

import {BioClipError} from '../core/errors.js';
import type {NativeAdapter} from './index.js';

/** The module that `npx bioclip-native BUNDLE FOLDER` writes: bundle.json, and Metro's number of each other file. */
export interface BundledFiles {
  bundle: object;
  files: Record<string, number>;
}

/** Phones take photographs of 12 to 50 megapixels. */
const DECODER = {useTArray: true, formatAsRGBA: false, maxResolutionInMP: 64, maxMemoryUsageInMB: 1024} as const;

/** Read a file on the device by its address. */
export type UriReader = (uri: string) => Promise<ArrayBuffer | Uint8Array>;

/**
 * Read a file on the device, such as a photograph just taken, with XMLHttpRequest.
 *
 * Every version of React Native has it, but on Android it may not read `file:` addresses, as `File` of expo-file-system
 * does: `(uri) => new File(uri).arrayBuffer()`.
 */
export function readUri(uri: string): Promise<ArrayBuffer> {
  return new Promise((resolve, reject) => {
    const fail = (reason: string) =>
      reject(
        new BioClipError(
          'unreachable',
          `${uri} cannot be read (${reason}). If the file is there, read it with expo-file-system: ` +
            'expoAdapter(files, {read: (uri) => new File(uri).arrayBuffer()})',
        ),
      );
    const request = new XMLHttpRequest();
    request.open('GET', uri);
    request.responseType = 'arraybuffer';
    request.onload = () => {
      const ok = request.status === 200 || request.status === 0; // file: addresses have no status
      if (ok && request.response) resolve(request.response as ArrayBuffer);
      else fail(`status ${request.status}`);
    };
    request.onerror = () => fail('XMLHttpRequest gives no reason');
    request.send();
  });
}

/** An adapter for the module that bioclip-native wrote; `read` reads the files that expo-asset unpacks. */
export function expoAdapter({bundle, files}: BundledFiles, {read = readUri}: {read?: UriReader} = {}): NativeAdapter {
  return {
    async readFile(name) {
      if (name === 'bundle.json') return new TextEncoder().encode(JSON.stringify(bundle)).buffer as ArrayBuffer;
      const module = files[name];
      if (module === undefined) {
        throw new BioClipError('unreachable', `${name} is not in this application: run bioclip-native again`, name);
      }
      const asset = await Asset.fromModule(module).downloadAsync();
      if (!asset.localUri) throw new BioClipError('unreachable', `${name} could not be unpacked on this device`, name);
      return read(asset.localUri);
    },
    decodeJpeg: (jpeg) => decode(jpeg, DECODER),
  };
}
