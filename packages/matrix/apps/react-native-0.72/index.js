/** An adapter without Expo: whatever reads files and decodes JPEG. Resolved by an old Metro, which knows no exports. */

import '@tensorflow/tfjs-backend-cpu';
import {decode} from 'jpeg-js';
import {AppRegistry, Image, Text} from 'react-native';
import {useBioClip} from 'react-bio-clip/native';

import oaks from './assets/model';

const adapter = {
  async readFile(name) {
    if (name === 'bundle.json') return new TextEncoder().encode(JSON.stringify(oaks.bundle));
    const response = await fetch(Image.resolveAssetSource(oaks.files[name]).uri);
    return response.arrayBuffer();
  },
  decodeJpeg: (jpeg) => decode(jpeg, {useTArray: true}),
};

function App() {
  const {status} = useBioClip(adapter, {backend: 'cpu'});
  return <Text>{status}</Text>;
}

AppRegistry.registerComponent('app', () => App);
