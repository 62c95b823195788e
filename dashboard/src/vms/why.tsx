// Why a VM is on its host, and what became of everything that was asked of it.
import { Text } from '@mantine/core';
import { many } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty } from '../ui/shown';
import { State, word } from '../ui/state';
import { At, Took } from '../ui/time';
import type { VmData } from './vm';

export function Operations({ vm }: { vm: VmData }) {
  const newest = [...vm.operations].reverse();
  if (newest.length === 0) return <Empty title="Nothing was asked of it yet" />;
  return (
    <section className="scroll-x" tabIndex={0} aria-label="Operations">
      <table className="plain">
        <thead>
          <tr>
            <th>Status</th>
            <th>What</th>
            <th>Asked by</th>
            <th>When</th>
            <th>Took</th>
            <th>Error</th>
          </tr>
        </thead>
        <tbody>
          {newest.map((operation) => (
            <tr key={operation.number}>
              <td>
                <State status={operation.status} />
              </td>
              <td>
                {word(operation.kind)}
                {operation.snapshot && ` ${operation.snapshot}`}
              </td>
              <td>{operation.askedBy ?? <span className="dim">the cluster</span>}</td>
              <td style={{ whiteSpace: 'nowrap' }}>
                <At at={operation.startedAt} />
              </td>
              <td style={{ whiteSpace: 'nowrap' }}>
                <Took from={operation.startedAt} to={operation.endedAt} />
              </td>
              <td className="wrap" style={{ color: operation.status === 'FAILED' ? 'var(--bad)' : undefined }}>
                {operation.error}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

export function Placement({ vm, names }: { vm: VmData; names: Map<string, string> }) {
  const { placement } = vm;
  const asked = [
    ...vm.antiAffinity.map((group) => `apart from ${group}`),
    ...vm.affinity.map((group) => `with ${group}`),
    ...(vm.zone ? [`in zone ${vm.zone}`] : []),
    ...vm.hostLabels.map(({ key, value }) => `on ${key}=${value}`),
  ];
  const top = Math.max(...placement.scores.map(({ score }) => Math.abs(score)), 0);
  return (
    <>
      <Text size="sm" mb="xs">
        It was placed by <strong>{word(placement.strategy)}</strong>, out of {many(placement.eligible, 'eligible host')}
        {asked.length > 0 && `; it wants to be ${asked.join(', ')}`}.
      </Text>
      {placement.scores.length > 0 && (
        <section className="scroll-x" tabIndex={0} aria-label="Scores of hosts">
          <table className="plain">
            <thead>
              <tr>
                <th>Host</th>
                <th>Score</th>
                <th style={{ width: '55%' }} aria-label="Score as a bar" />
              </tr>
            </thead>
            <tbody>
              {placement.scores.map(({ host, score }, index) => (
                <tr key={host} style={index === 0 ? { fontWeight: 650 } : undefined}>
                  <td>
                    <KeyLink id={host} name={names.get(host)} />
                  </td>
                  <td className="num">
                    {score.toFixed(3)}
                    {index === 0 && ' (chosen)'}
                  </td>
                  <td aria-hidden>
                    <span className="bar">
                      <span style={{ width: `${top > 0 ? (Math.abs(score) / top) * 100 : 0}%` }} />
                    </span>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
      {placement.leftOut.length > 0 && (
        <>
          <Text size="sm" fw={600} mt="sm">
            Left out
          </Text>
          <ul className="bare" style={{ fontSize: '0.88rem' }}>
            {placement.leftOut.map(({ hosts, reason }) => (
              <li key={reason}>
                <span className="num">{many(hosts, 'host')}</span>: {reason}
              </li>
            ))}
          </ul>
        </>
      )}
    </>
  );
}
