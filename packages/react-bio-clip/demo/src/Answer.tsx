/** The answer: a headline, the path through the tree with the confidence of each rank, and the alternatives. */

import type {Answer, Candidate} from 'react-bio-clip';
import type {ReactNode} from 'react';

import {common, isItalic, percent, scientific} from './names.js';
import type {Named} from './names.js';

interface Props {
  answer: Answer;
  ranks: readonly string[];
  language: string;
  /** Share of answers that were right when the thresholds were set, e.g. 0.95; null: the model is not calibrated. */
  level: number | null;
}

/** The candidate of the headline: the answer, or the best guess of a model without thresholds. */
const named = ({answer, taxa}: Answer, level: number | null) => answer ?? (level === null ? taxa[0] : null);

export function Name({of}: {of: Named}): ReactNode {
  return isItalic(of.rank) ? <i lang="la">{scientific(of)}</i> : <span lang="la">{scientific(of)}</span>;
}

/** Remarks on an answer besides its name and its probability. */
function remarks({isFinest, note, zeroShot, unexpected}: Candidate): string[] {
  return [
    ...(unexpected ? ['not expected here'] : []),
    ...(isFinest ? ['not told apart here'] : []),
    ...(note ? [note] : []),
    ...(zeroShot ? ['known by name alone'] : []),
  ];
}

/** Whether the photograph probably shows nothing that the model knows. */
const isOffList = ({onList}: Answer) => onList !== undefined && onList < 0.5;

/** One sentence for screen readers; without the number where it changes continuously. */
export function spoken(found: Answer, level: number | null, language: string, withPercent: boolean): string {
  const answer = named(found, level);
  const other = isOffList(found) && 'probably not on the list';
  if (!answer) return `Not sure enough to name it, not even its kingdom${other ? `; ${other}` : ''}.`;
  const name = common(answer, language);
  const guess = level === null && 'not calibrated';
  const parts = [`${answer.rank} ${scientific(answer)}`, name, withPercent && percent(answer.probability), guess];
  return [...parts, ...remarks(answer), other].filter(Boolean).join(', ');
}

function Bar({share}: {share: number}): ReactNode {
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
  return (
    <p className="note off-list">
      Probably nothing on the list of this model, with a chance of {percent(1 - onList)}
      {': any name here is only the nearest that it knows.'}
    </p>
  );
}

function Headline({answer: found, language, level, ranks}: Props): ReactNode {
  const answer = named(found, level);
  if (!answer) {
    return (
      <div className="headline">
        <h2>Not sure</h2>
        <p className="note">
          It is not sure enough of any rank to be right {percent(level ?? 0)} of the time. Is one organism sharp, large
          and alone in the photo? It may also be none that this model knows.
        </p>
      </div>
    );
  }
  const name = common(answer, language);
  const isLowest = answer.rank === ranks.at(-1);
  return (
    <div className="headline">
      <p className="rank">{answer.rank}</p>
      <h2>
        <Name of={answer} /> <span className="percent">{percent(answer.probability)}</span>
      </h2>
      {name && (
        <p className="common" lang={language}>
          {name}
        </p>
      )}
      {answer.isFinest && <p className="note">Not told apart below the {answer.rank} here.</p>}
      {answer.note && <p className="note">{answer.note}</p>}
      {answer.unexpected && <p className="note">Not expected here, or not in this month.</p>}
      {answer.zeroShot && (
        <p className="note">
          Known by name alone: the model has learned from no photo of it, and promises nothing for such an answer.
        </p>
      )}
      {level === null ? (
        <p className="note">Not calibrated: this is the best guess of the model, however unsure it is.</p>
      ) : (
        !isLowest &&
        !answer.isFinest && (
          <p className="note">
            Not sure enough of the {ranks[ranks.indexOf(answer.rank) + 1]} to be right {percent(level)} of the time.
          </p>
        )
      )}
    </div>
  );
}

export function AnswerView(props: Props): ReactNode {
  const {answer, ranks, language} = props;
  return (
    <>
      <Headline {...props} />
      {isOffList(answer) && <OffList {...answer} />}
      <h3 id="path">Its place in the tree</h3>
      <ol className="path" aria-labelledby="path">
        {trunk(answer, ranks).map((step) => (
          <li key={step.rank} className={step.kind}>
            <span className="rank">{step.rank}</span>
            <span className="name">
              <Name of={step} />
              {step.kind === 'guess' && <span className="visually-hidden"> (a guess)</span>}
            </span>
            <span className="percent">{percent(step.probability)}</span>
            <Bar share={step.probability} />
          </li>
        ))}
      </ol>
      <h3 id="candidates">It could be</h3>
      <ol className="candidates" aria-labelledby="candidates">
        {answer.taxa.map((taxon) => (
          <li key={taxon.path.join(' ')}>
            <span className="name">
              <Name of={taxon} />
              <span className="common" lang={language}>
                {common(taxon, language)}
              </span>
              {remarks(taxon).length > 0 && <span className="remark">{remarks(taxon).join('; ')}</span>}
            </span>
            <span className="percent">{percent(taxon.probability)}</span>
            <Bar share={taxon.probability} />
          </li>
        ))}
      </ol>
    </>
  );
}
