/** The adapter for Expo, and React Native with its modules: files in the application, JPEG decoded in JavaScript. */

import {Asset} from 'expo-asset';
import {decode} from 'jpeg-js';

import {BioClipError} from '../core/errors.js';
import type {NativeAdapter, Pixels, TfliteModel} from './index.js';
import {exifOrientation, upright} from './orientation.js';

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

/** The calls to `ImageManipulator` of expo-image-manipulator. */
export interface Manipulator {
  manipulate(source: string): Rendering;
}
interface Rendering {
  resize(size: {width: number}): Rendering;
  renderAsync(): Promise<Rendered>;
}
interface Rendered {
  width: number;
  height: number;
  saveAsync(options: {compress: number}): Promise<{uri: string}>;
}

export interface ExpoModules {
  /** Reads the files that expo-asset unpacks, and photographs. */
  read?: UriReader;
  /** Deletes the copies that the manipulator leaves in the cache folder: `(uri) => new File(uri).delete()`. */
  remove?: (uri: string) => void;
  /** `loadTensorflowModel` of react-native-fast-tflite, for bundles in data/convert/tflite. */
  tflite?: (source: {url: string}, delegates: []) => Promise<TfliteModel>;
  /** `ImageManipulator` of expo-image-manipulator: decodes, turns and scales photographs faster than JavaScript. */
  manipulator?: Manipulator;
}

/** An adapter for the module that bioclip-native wrote. */
export function expoAdapter({bundle, files}: BundledFiles, modules: ExpoModules = {}): NativeAdapter {
  const {read = readUri, remove, tflite, manipulator} = modules;

  async function unpack(name: string): Promise<string> {
    const module = files[name];
    if (module === undefined) {
      throw new BioClipError('unreachable', `${name} is not in this application: run bioclip-native again`, name);
    }
    const asset = await Asset.fromModule(module).downloadAsync();
    if (!asset.localUri) throw new BioClipError('unreachable', `${name} could not be unpacked on this device`, name);
    return asset.localUri;
  }

  async function decodeUpright(uri: string): Promise<Pixels> {
    const jpeg = new Uint8Array(await read(uri));
    return upright(decode(jpeg, DECODER), exifOrientation(jpeg));
  }

  return {
    async readFile(name) {
      if (name === 'bundle.json') return new TextEncoder().encode(JSON.stringify(bundle)).buffer as ArrayBuffer;
      return read(await unpack(name));
    },
    decodeJpeg: (jpeg) => decode(jpeg, DECODER),
    ...(tflite && {openTflite: async (name) => tflite({url: await unpack(name)}, [])}),
    async readPhotograph(uri, shortest) {
      try {
        if (!manipulator) return await decodeUpright(uri);
        const copy = await scaled(manipulator, uri, shortest);
        return await decodeUpright(copy).finally(() => remove?.(copy));
      } catch (error) {
        if (error instanceof BioClipError) throw error;
        throw new BioClipError('image', `${uri} cannot be decoded: ${(error as Error).message}`, null, error);
      }
    },
  };
}

/** The address of an upright copy, whose shorter side has at least `shortest` pixels if that of the photograph does. */
async function scaled(manipulator: Manipulator, uri: string, shortest: number): Promise<string> {
  const whole = await manipulator.manipulate(uri).renderAsync();
  const factor = shortest / Math.min(whole.width, whole.height);
  const size = {width: Math.ceil(whole.width * factor)};
  const small = factor < 1 ? await manipulator.manipulate(uri).resize(size).renderAsync() : whole;
  return (await small.saveAsync({compress: 1})).uri;
}
