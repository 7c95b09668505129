/** The bundle in assets/model, which `npm run model` writes, and what the device does for it. */

import {File} from 'expo-file-system';
import {ImageManipulator} from 'expo-image-manipulator';
import {loadTensorflowModel} from 'react-native-fast-tflite';
import {expoAdapter} from 'react-bio-clip/native/expo';

import bundled from '../assets/model';

export const remove = (uri: string) => new File(uri).delete();

export const adapter = expoAdapter(bundled, {
  read: (uri) => new File(uri).arrayBuffer(),
  remove,
  tflite: loadTensorflowModel,
  manipulator: ImageManipulator,
});
