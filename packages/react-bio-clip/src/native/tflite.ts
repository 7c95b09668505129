/** The model in LiteRT, which react-native-fast-tflite runs; the application hands its functions over. */

import type {OpenModel} from '../core/bundle.js';
import {BioClipError, throwIfAborted} from '../core/errors.js';
import type {Model} from '../core/model.js';

/** The calls to a model of react-native-fast-tflite, version 3 or newer. */
export interface TfliteModel {
  run(inputs: ArrayBuffer[]): Promise<ArrayBuffer[]>;
}

/** Load a model, given the name of its file in bundle.json. */
export type OpenTflite = (name: string) => Promise<TfliteModel>;

export const isTflite = (file: string) => file.endsWith('.tflite');

/** Opens the model of a downloaded bundle in LiteRT. */
export const openerOf =
  (openTflite: OpenTflite): OpenModel =>
  async ({info}, _manifest, signal) => {
    throwIfAborted(signal);
    const {file} = info.model;
    const model = await openTflite(file).catch((error: Error) => {
      throw new BioClipError('backend', `${file}: react-native-fast-tflite refuses it: ${error.message}`, file, error);
    });
    throwIfAborted(signal);
    return onTflite(model);
  };

/** The model takes one image at a time. */
function onTflite(model: TfliteModel): Model {
  return {
    backend: 'tflite',
    async run(input) {
      const [output = new ArrayBuffer(0)] = await model.run([input.slice().buffer]);
      return new Float32Array(output);
    },
    dispose: () => {}, // with the last reference
  };
}
