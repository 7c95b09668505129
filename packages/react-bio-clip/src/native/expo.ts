/** The adapter for Expo, and React Native with its modules: files in the application, JPEG decoded in JavaScript. */

import {Asset} from 'expo-asset';
import {decode} from 'jpeg-js';

import type {NativeAdapter} from './index.js';

/** The module that `npx bioclip-native BUNDLE FOLDER` writes: bundle.json, and Metro's number of each other file. */
export interface BundledFiles {
  bundle: object;
  files: Record<string, number>;
}

/** Phones take photographs of 12 to 50 megapixels. */
const DECODER = {useTArray: true, formatAsRGBA: false, maxResolutionInMP: 64, maxMemoryUsageInMB: 1024} as const;

/**
 * Read a file on the device, such as a photograph just taken.
 *
 * Only XMLHttpRequest reads whole files in every version of React Native.
 */
export function readUri(uri: string): Promise<ArrayBuffer> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open('GET', uri);
    request.responseType = 'arraybuffer';
    request.onload = () => {
      const ok = request.status === 200 || request.status === 0; // file: addresses have no status
      if (ok && request.response) resolve(request.response as ArrayBuffer);
      else reject(new Error(`${uri} cannot be read (status ${request.status})`));
    };
    request.onerror = () => reject(new Error(`${uri} cannot be read`));
    request.send();
  });
}

export function expoAdapter({bundle, files}: BundledFiles): NativeAdapter {
  return {
    async readFile(name) {
      if (name === 'bundle.json') return new TextEncoder().encode(JSON.stringify(bundle)).buffer as ArrayBuffer;
      const module = files[name];
      if (module === undefined) throw new Error(`${name} is not in this application: run bioclip-native again`);
      const asset = await Asset.fromModule(module).downloadAsync();
      if (!asset.localUri) throw new Error(`${name} could not be unpacked on this device`);
      return readUri(asset.localUri);
    },
    decodeJpeg: (jpeg) => decode(jpeg, DECODER),
  };
}
