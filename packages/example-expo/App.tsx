import {useState} from 'react';
import {Pressable, ScrollView, StyleSheet, Text} from 'react-native';
import {useBioClip} from 'react-bio-clip/native';
import {BioClipCamera} from 'react-bio-clip/native/camera';

import {AnswerView} from './src/AnswerView';
import {adapter, remove} from './src/model';

export default function App() {
  const {clip, status, error, progress} = useBioClip(adapter);
  const [continuous, setContinuous] = useState(false);
  return (
    <ScrollView contentContainerStyle={styles.page}>
      {status === 'loading' && <Text>Loading the model{progress && `, ${percent(progress)} %`} …</Text>}
      {status === 'error' && <Text accessibilityRole="alert">{error?.message}</Text>}
      <BioClipCamera
        classifyUri={clip?.classifyUri}
        continuous={continuous}
        interval={1000}
        remove={remove}
        styles={{button: styles.button, label: styles.label}}
      >
        {({answer}) => answer && clip && <AnswerView answer={answer} ranks={clip.info.ranks} />}
      </BioClipCamera>
      <Pressable
        accessibilityRole="switch"
        accessibilityState={{checked: continuous}}
        style={styles.switch}
        onPress={() => setContinuous(!continuous)}
      >
        <Text>{continuous ? 'Answer when I press' : 'Answer all the time'}</Text>
      </Pressable>
    </ScrollView>
  );
}

const percent = ({loaded, total}: {loaded: number; total: number}) => Math.round((100 * loaded) / total);

const styles = StyleSheet.create({
  page: {paddingTop: 56, paddingHorizontal: 16, paddingBottom: 32, gap: 12},
  button: {backgroundColor: '#1f5c3a', borderRadius: 8, marginTop: 12},
  label: {color: '#ffffff', fontSize: 18},
  switch: {minHeight: 48, justifyContent: 'center'},
});
