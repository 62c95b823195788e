// A question of an agent's program, and a person's answer to it.
import { Button, Group, Text, TextInput } from '@mantine/core';
import { Check, X } from 'lucide-react';
import { useState } from 'react';
import { graphql, type ResultOf } from '../live/graphql';
import { useAct } from '../ui/act';
import { Json } from '../ui/json';
import { KeyLink } from '../ui/key';
import { ProblemNote } from '../ui/shown';
import { State, word } from '../ui/state';
import { Ago, At, duration, useNow } from '../ui/time';

export const APPROVAL = graphql(`
  fragment ApprovalCard on Approval {
    id tool input files status askedAt until otherwise message answeredBy endedAt attempt
    agent { id name }
    task { id title }
  }
`);

export type ApprovalData = ResultOf<typeof APPROVAL>;

const ANSWER = graphql(
  `mutation AnswerApproval($input: AnswerApprovalInput!) { answerApproval(input: $input) { cursor } }`,
);

export function ApprovalCard({ approval, refresh }: { approval: ApprovalData; refresh: () => void }) {
  const answer = useAct(ANSWER, refresh);
  const [message, setMessage] = useState('');
  const open = approval.status === 'OPEN';
  const decide = (decision: 'ALLOW' | 'DENY') =>
    answer.run(
      { approval: approval.id, decision, message: message.trim() || null },
      decision === 'ALLOW' ? `${approval.tool} is allowed.` : `${approval.tool} is denied.`,
    );
  return (
    <article className="card" aria-label={`Question about ${approval.tool}`}>
      <Group justify="space-between" gap="xs" mb="xs">
        <Text component="div" fw={600} className="wrap">
          {approval.agent ? <KeyLink id={approval.agent.id} name={approval.agent.name} /> : 'An agent that was removed'}{' '}
          {open ? 'asks' : 'asked'} for <span className="mono">{approval.tool}</span>
        </Text>
        <State status={approval.status} />
      </Group>
      <Text size="sm" c="dimmed" mb="xs" component="div">
        {approval.task && (
          <>
            in <KeyLink id={approval.task.id} name={approval.task.title} />, attempt {approval.attempt},{' '}
          </>
        )}
        <Ago at={approval.askedAt} />
        {open && <Left approval={approval} />}
        {!open && approval.answeredBy && (
          <>
            ; {word(approval.status)} by {approval.answeredBy} at <At at={approval.endedAt} />
          </>
        )}
        {!open && approval.message && <>: “{approval.message}”</>}
      </Text>
      <Json value={approval.input} label={`What ${approval.tool} would do`} />
      {approval.files.length > 0 && (
        <Text size="sm" mt={6} component="div" className="wrap">
          Files: <span className="mono">{approval.files.join(', ')}</span>
        </Text>
      )}
      {open && (
        <Group mt="sm" gap="xs" align="flex-end">
          <TextInput
            size="xs"
            style={{ flex: '1 1 14rem' }}
            aria-label="Message to the program"
            placeholder="Message to the program, if you like"
            value={message}
            onChange={(event) => setMessage(event.currentTarget.value)}
          />
          <Button
            size="xs"
            variant="default"
            leftSection={<X size={14} />}
            loading={answer.running}
            onClick={() => decide('DENY')}
          >
            Deny
          </Button>
          <Button size="xs" leftSection={<Check size={14} />} loading={answer.running} onClick={() => decide('ALLOW')}>
            Allow
          </Button>
        </Group>
      )}
      {answer.problem && (
        <div style={{ marginTop: 8 }}>
          <ProblemNote problem={answer.problem} />
        </div>
      )}
    </article>
  );
}

function Left({ approval }: { approval: ApprovalData }) {
  const now = useNow();
  const left = Date.parse(approval.until) - now;
  return (
    <>
      ; {left > 0 ? `in ${duration(left)}` : 'now'} it is {approval.otherwise === 'ALLOW' ? 'allowed' : 'denied'} if
      nobody answers
    </>
  );
}
