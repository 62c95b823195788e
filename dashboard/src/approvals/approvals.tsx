// Questions of agents' programs: those that wait, then those that were answered.
import { Stack } from '@mantine/core';
import type { FeedEvent } from '../live/feed';
import { graphql } from '../live/graphql';
import { useLive } from '../live/use_live';
import { KeyLink } from '../ui/key';
import { Empty, Freshness, PageHead, Panel, Shown } from '../ui/shown';
import { State } from '../ui/state';
import { Ago } from '../ui/time';
import { APPROVAL, ApprovalCard } from './card';

const OPEN = graphql(
  `
  query OpenApprovals($filter: ApprovalFilter!, $atLeast: Cursor) {
    approvals(first: 50, filter: $filter, atLeast: $atLeast) { nodes { ...ApprovalCard } pageInfo { hasNextPage } }
  }
`,
  [APPROVAL],
);
const ANSWERED = graphql(`
  query AnsweredApprovals($atLeast: Cursor) {
    approvals(first: 100, filter: { status: [ALLOWED, DENIED, WITHDRAWN] }, atLeast: $atLeast) {
      nodes { id tool status askedAt answeredBy message agent { id name } task { id title } }
    }
  }
`);

export const touchesApprovals = (event: FeedEvent) => event.kind.startsWith('Approval');

export function Approvals() {
  const open = useLive(OPEN, { filter: { status: ['OPEN'] } }, { touches: touchesApprovals });
  const answered = useLive(ANSWERED, {}, { touches: touchesApprovals });
  return (
    <div className="page">
      <PageHead title="Approvals" note="What agents’ programs may not do without a person. The first answer counts.">
        <Freshness live={open} />
      </PageHead>
      <Shown live={open}>
        {({ approvals }) =>
          approvals.nodes.length === 0 ? (
            <div className="card">
              <Empty title="No question waits">
                When an agent’s program asks for something that no rule decides, it shows here at once.
              </Empty>
            </div>
          ) : (
            <Stack>
              {approvals.nodes.map((approval) => (
                <ApprovalCard key={approval.id} approval={approval} refresh={open.refresh} />
              ))}
              {approvals.pageInfo.hasNextPage && <p className="dim">More wait; they follow when these are answered.</p>}
            </Stack>
          )
        }
      </Shown>
      <Panel title="Answered" live={answered}>
        <Shown live={answered}>
          {({ approvals }) =>
            approvals.nodes.length === 0 ? (
              <Empty title="None yet" />
            ) : (
              <div className="scroll-x">
                <table className="plain">
                  <thead>
                    <tr>
                      <th>Answer</th>
                      <th>Tool</th>
                      <th>Agent</th>
                      <th>Task</th>
                      <th>By</th>
                      <th>Asked</th>
                    </tr>
                  </thead>
                  <tbody>
                    {approvals.nodes.map((approval) => (
                      <tr key={approval.id}>
                        <td>
                          <State status={approval.status} />
                        </td>
                        <td className="mono">{approval.tool}</td>
                        <td>{approval.agent && <KeyLink id={approval.agent.id} name={approval.agent.name} />}</td>
                        <td className="wrap">
                          {approval.task && <KeyLink id={approval.task.id} name={approval.task.title} />}
                        </td>
                        <td className="wrap">
                          {approval.answeredBy}
                          {approval.message && <span className="dim">: {approval.message}</span>}
                        </td>
                        <td style={{ whiteSpace: 'nowrap' }}>
                          <Ago at={approval.askedAt} />
                        </td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            )
          }
        </Shown>
      </Panel>
    </div>
  );
}

/** The open questions of one agent or task, where there are any. */
export function OpenQuestions({ agent, task }: { agent?: string; task?: string }) {
  const live = useLive(OPEN, { filter: { status: ['OPEN'], agent, task } }, { touches: touchesApprovals });
  if (!live.data || live.data.approvals.nodes.length === 0) return null;
  return (
    <Stack gap="sm">
      {live.data.approvals.nodes.map((approval) => (
        <ApprovalCard key={approval.id} approval={approval} refresh={live.refresh} />
      ))}
    </Stack>
  );
}
