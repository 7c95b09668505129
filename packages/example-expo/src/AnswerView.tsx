import {StyleSheet, Text, View} from 'react-native';
import type {Answer} from 'react-bio-clip/native';

import {rowsOf, summaryOf} from './words';

/** The answer that the model is certain enough of, and how certain it is at each rank. */
export function AnswerView({answer, ranks}: {answer: Answer; ranks: string[]}) {
  const {title, note} = summaryOf(answer);
  return (
    <View style={styles.answer}>
      <Text style={styles.title}>{title}</Text>
      {note !== null && <Text>{note}</Text>}
      {rowsOf(answer, ranks).map(({rank, name, percent, isAnswer}) => (
        <View key={rank} accessible accessibilityLabel={`${rank} ${name}, ${percent} %`}>
          <Text style={isAnswer && styles.certain}>
            {rank} {name}, {percent} %
          </Text>
          <View style={styles.scale}>
            <View style={[styles.bar, isAnswer && styles.certainBar, {width: `${percent}%`}]} />
          </View>
        </View>
      ))}
    </View>
  );
}

const styles = StyleSheet.create({
  answer: {gap: 6, marginTop: 12},
  title: {fontSize: 24, fontWeight: '600'},
  certain: {fontWeight: '600'},
  scale: {height: 6, backgroundColor: '#dfe5e1', borderRadius: 3},
  bar: {height: 6, backgroundColor: '#8aa596', borderRadius: 3},
  certainBar: {backgroundColor: '#1f5c3a'},
});
