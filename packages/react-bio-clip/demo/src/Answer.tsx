/** The answer: a headline, the path through the tree with the confidence of each rank, and the alternatives. */

import type {Answer, Candidate} from 'react-bio-clip';
import type {ReactNode} from 'react';

import {common, isItalic, percent, scientific} from './names.js';
import type {Named} from './names.js';
import {useTexts} from './texts.js';
import type {Texts} from './texts.js';

interface Props {
  answer: Answer;
  ranks: readonly string[];
  /** Share of answers that were right when the thresholds were set, e.g. 0.95; null: the model is not calibrated. */
  level: number | null;
}

/** The candidate of the headline: the answer, or the best guess of a model without thresholds. */
export const named = ({answer, taxa}: Answer, level: number | null) => answer ?? (level === null ? taxa[0] : null);

export function Name({of}: {of: Named}): ReactNode {
  return isItalic(of.rank) ? <i lang="la">{scientific(of)}</i> : <span lang="la">{scientific(of)}</span>;
}

/** Remarks on an answer besides its name and its probability. */
export function remarks({isFinest, note, zeroShot, unexpected}: Candidate, {t}: Texts): string[] {
  return [
    ...(unexpected ? [t('answer.unexpected.short')] : []),
    ...(isFinest ? [t('answer.finest.short')] : []),
    ...(note ? [note] : []),
    ...(zeroShot ? [t('answer.zeroshot.short')] : []),
  ];
}

/** Whether the photograph probably shows nothing that the model knows. */
export const isOffList = ({onList}: Pick<Answer, 'onList'>) => onList !== undefined && onList < 0.5;

/** One sentence for screen readers; without the number where it changes continuously. */
export function spoken(found: Answer, level: number | null, texts: Texts, withPercent: boolean): string {
  const {t, rank, language} = texts;
  const answer = named(found, level);
  const other = isOffList(found) && t('answer.offlist.spoken');
  if (!answer) return `${t('answer.unsure.spoken')}${other ? `; ${other}` : ''}.`;
  const name = common(answer, language);
  const guess = level === null && t('answer.uncalibrated.spoken');
  const parts = [`${rank(answer.rank)} ${scientific(answer)}`, name, withPercent && percent(answer.probability), guess];
  return [...parts, ...remarks(answer, texts), other].filter(Boolean).join(', ');
}

export function Bar({share}: {share: number}): ReactNode {
  return (
    <span className="bar" aria-hidden="true">
      <span style={{width: `${Math.max(1, 100 * share)}%`}} />
    </span>
  );
}

interface Step extends Named {
  probability: number;
  /** Above the answer, named with confidence; the answer itself; or below it, a guess. */
  kind: 'sure' | 'answer' | 'guess';
}

/** The best node of each rank, from the top, as long as each lies below the one before it. */
function trunk({answer, ranks: best}: Answer, ranks: readonly string[]): Step[] {
  const steps: Step[] = [];
  const depth = answer ? ranks.indexOf(answer.rank) : -1;
  let above: readonly (string | null)[] = [];
  ranks.forEach((rank, r) => {
    const node = r === depth && answer ? answer : best[rank];
    if (!node || above.some((name, i) => name !== node.path[i])) return;
    above = node.path;
    const kind = r === depth ? 'answer' : r < depth ? 'sure' : 'guess';
    steps.push({rank, path: node.path, probability: node.probability, kind});
  });
  return steps;
}

/** Tell the visitor that a photograph is unlike all that the model knows. */
function OffList({onList = 1}: Answer): ReactNode {
  const {t} = useTexts();
  return <p className="note off-list">{t('answer.offlist', {chance: percent(1 - onList)})}</p>;
}

function Headline({answer: found, level, ranks}: Props): ReactNode {
  const {t, rank, language} = useTexts();
  const answer = named(found, level);
  if (!answer) {
    return (
      <div className="headline">
        <h2>{t('answer.unsure')}</h2>
        <p className="note">{t('answer.unsure.help', {level: percent(level ?? 0)})}</p>
      </div>
    );
  }
  const name = common(answer, language);
  const isLowest = answer.rank === ranks.at(-1);
  return (
    <div className="headline">
      <p className="rank">{rank(answer.rank)}</p>
      <h2>
        <Name of={answer} /> <span className="percent">{percent(answer.probability)}</span>
      </h2>
      {name && (
        <p className="common" lang={language}>
          {name}
        </p>
      )}
      {answer.isFinest && <p className="note">{t('answer.finest', {rank: rank(answer.rank)})}</p>}
      {answer.note && <p className="note">{answer.note}</p>}
      {answer.unexpected && <p className="note">{t('answer.unexpected')}</p>}
      {answer.zeroShot && <p className="note">{t('answer.zeroshot')}</p>}
      {level === null ? (
        <p className="note">{t('answer.uncalibrated')}</p>
      ) : (
        !isLowest &&
        !answer.isFinest && (
          <p className="note">
            {t('answer.below', {level: percent(level), rank: rank(ranks[ranks.indexOf(answer.rank) + 1])})}
          </p>
        )
      )}
    </div>
  );
}

export function AnswerView(props: Props): ReactNode {
  const {answer, ranks} = props;
  const texts = useTexts();
  const {t, language} = texts;
  return (
    <>
      <Headline {...props} />
      {isOffList(answer) && <OffList {...answer} />}
      <h3 id="path">{t('answer.path')}</h3>
      <ol className="path" aria-labelledby="path">
        {trunk(answer, ranks).map((step) => (
          <li key={step.rank} className={step.kind}>
            <span className="rank">{texts.rank(step.rank)}</span>
            <span className="name">
              <Name of={step} />
              {step.kind === 'guess' && <span className="visually-hidden"> {t('answer.guess')}</span>}
            </span>
            <span className="percent">{percent(step.probability)}</span>
            <Bar share={step.probability} />
          </li>
        ))}
      </ol>
      <h3 id="candidates">{t('answer.candidates')}</h3>
      <ol className="candidates" aria-labelledby="candidates">
        {answer.taxa.map((taxon) => (
          <li key={taxon.path.join(' ')}>
            <span className="name">
              <Name of={taxon} />
              <span className="common" lang={language}>
                {common(taxon, language)}
              </span>
              {remarks(taxon, texts).length > 0 && <span className="remark">{remarks(taxon, texts).join('; ')}</span>}
            </span>
            <span className="percent">{percent(taxon.probability)}</span>
            <Bar share={taxon.probability} />
          </li>
        ))}
      </ol>
    </>
  );
}
