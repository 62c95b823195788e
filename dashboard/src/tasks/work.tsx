// What was asked for and what came of it.
import { Stack, Title } from '@mantine/core';
import { bytes } from '../ui/figures';
import { Json, TextBlock } from '../ui/json';
import { CopyKey } from '../ui/key';
import { Empty } from '../ui/shown';
import { duration } from '../ui/time';
import { ArtifactDownload } from './artifact';
import type { TaskData } from './query';

/** As one would type it; only for reading, never run. */
export function commandLine(argv: readonly string[]): string {
  return argv.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`)).join(' ');
}

export function Work({ task }: { task: TaskData }) {
  return (
    <Stack gap="md">
      {task.command && (
        <section>
          <Title order={3} mb={6}>
            Command
          </Title>
          <TextBlock text={commandLine(task.command.argv)} label="Command" />
          <dl className="facts" style={{ marginTop: 8 }}>
            {task.command.cwd && (
              <>
                <dt>Directory</dt>
                <dd className="mono">{task.command.cwd}</dd>
              </>
            )}
            {task.command.env.map(({ name, value }) => [
              <dt key={`${name}.`} className="mono">
                {name}
              </dt>,
              <dd key={name} className="mono">
                {value}
              </dd>,
            ])}
          </dl>
          {task.command.stdin !== null && <TextBlock text={task.command.stdin} label="Standard input" />}
        </section>
      )}
      {!task.command && (
        <section>
          <Title order={3} mb={6}>
            Payload of <span className="mono">{task.kind}</span>
          </Title>
          <Json value={task.payload} label="Payload" />
        </section>
      )}
      {task.gate && (
        <section>
          <Title order={3} mb={6}>
            Gate: {task.gate.name}
          </Title>
          <TextBlock text={commandLine(task.gate.command.argv)} label="Gate" />
          <p className="dim" style={{ margin: '4px 0 0', fontSize: '0.85rem' }}>
            {duration(task.gate.timeoutMs)} at most; a failed gate{' '}
            {task.gate.retriable ? 'is tried again with another attempt' : 'ends the task'}.
          </p>
        </section>
      )}
      <section>
        <Title order={3} mb={6}>
          Result {task.resultBytes !== null && <span className="dim num">{bytes(task.resultBytes)}</span>}
        </Title>
        {task.resultText === null ? (
          <Empty title={task.endedAt ? 'It returned nothing' : 'There is no result yet'} />
        ) : (
          <TextBlock text={pretty(task.resultText)} label="Result" />
        )}
      </section>
      {task.artifacts.length > 0 && (
        <section>
          <Title order={3} mb={6}>
            Artifacts
          </Title>
          <div className="scroll-x">
            <table className="plain">
              <thead>
                <tr>
                  <th>Name</th>
                  <th>Size</th>
                  <th>BLAKE3</th>
                  <th aria-label="Download" />
                </tr>
              </thead>
              <tbody>
                {task.artifacts.map((artifact) => (
                  <tr key={artifact.name}>
                    <td className="wrap">{artifact.name}</td>
                    <td className="num">{bytes(artifact.bytes)}</td>
                    <td>
                      <CopyKey id={artifact.hash} />
                    </td>
                    <td>
                      <ArtifactDownload task={task.id} artifact={artifact} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </section>
      )}
    </Stack>
  );
}

function pretty(text: string): string {
  if (text.length > 200_000 || !/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
