// Why this agent: the candidates, best first, with what their scores are made of, and who was left out and why.
import { Text } from '@mantine/core';
import { KeyLink } from '../ui/key';
import { word } from '../ui/state';
import type { Attempt } from './query';

const PARTS = ['specialisation', 'success', 'load'] as const;

export function DecisionTable({ attempt }: { attempt: Attempt }) {
  const { decision } = attempt;
  const hidden = decision.eligible - decision.scores.length;
  return (
    <div className="scroll-x">
      <Text size="sm" mb="xs">
        Attempt {attempt.number} was placed by <strong>{word(decision.strategy)}</strong>, out of {decision.eligible}{' '}
        eligible {decision.eligible === 1 ? 'agent' : 'agents'}.
      </Text>
      <table className="plain" style={{ minWidth: 480 }}>
        <thead>
          <tr>
            <th>Agent</th>
            <th style={{ width: '34%' }}>Score</th>
            <th>Specialisation</th>
            <th>Success</th>
            <th>Load</th>
          </tr>
        </thead>
        <tbody>
          {decision.scores.map((score) => (
            <tr key={score.agent} style={score.agent === decision.chosen ? { fontWeight: 650 } : undefined}>
              <td>
                <KeyLink id={score.agent} name={score.agent === attempt.agentId ? attempt.agent?.name : undefined} />
                {score.agent === decision.chosen && ' (chosen)'}
              </td>
              <td>
                <div style={{ display: 'flex', alignItems: 'center', gap: 8 }}>
                  <span className="num">{score.total.toFixed(3)}</span>
                  <span style={{ flex: 1, height: 7, borderRadius: 4, background: 'var(--idle-soft)' }} aria-hidden>
                    <span
                      style={{
                        display: 'block',
                        height: 7,
                        borderRadius: 4,
                        width: `${Math.max(0, Math.min(1, score.total)) * 100}%`,
                        background: 'var(--busy)',
                      }}
                    />
                  </span>
                </div>
              </td>
              {PARTS.map((part) => (
                <td key={part} className="num">
                  {score[part].toFixed(2)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {hidden > 0 && (
        <Text size="sm" c="dimmed" mt={4}>
          {hidden} more were eligible with lower scores.
        </Text>
      )}
      {decision.leftOut.length > 0 && (
        <>
          <Text size="sm" fw={600} mt="sm">
            Left out
          </Text>
          <ul className="bare" style={{ fontSize: '0.88rem' }}>
            {decision.leftOut.map(({ agents, reason }) => (
              <li key={reason}>
                <span className="num">{agents}</span>: {reason}
              </li>
            ))}
          </ul>
        </>
      )}
    </div>
  );
}
