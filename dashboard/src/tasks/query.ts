// All that a task's page shows of it.
import { graphql, type ResultOf } from '../live/graphql';

export const TASK = graphql(`
  query Task($id: ID!, $atLeast: Cursor) {
    node(id: $id, atLeast: $atLeast) {
      __typename
      ... on Task {
        id title kind status priority principal createdAt startedAt endedAt notBefore error why
        queueTimeoutMs runTimeoutMs totalTimeoutMs nameInPlan
        swarm { id name }
        agent { id name }
        labels { key value }
        skills
        retry { maxAttempts firstMs factor maxMs }
        command { argv cwd stdin env { name value } }
        payload resultText resultBytes
        artifacts { name bytes hash }
        gate { name retriable timeoutMs command { argv } }
        plan { aggregate subtasksMax }
        scatter { policy atLeast deadlineMs }
        parent { id title status }
        twinOf { id title status }
        dependsOn { id title status }
        blockedBy { id title status }
        subtasks { id title status startedAt endedAt error dependsOn { id } twinOf { id } }
        moves { fromShard toShard givenAt takenAt why }
        attempts {
          number agentId status assignedAt startedAt endedAt exitCode signal error retriable lease
          agent { id name connector { kind coding { model } } }
          usage { model calls input output cacheRead cacheWrite incomplete money { amount currency } }
          decision { chosen eligible strategy leftOut { agents reason } scores { agent total specialisation success load } }
        }
      }
    }
  }
`);

export type TaskData = Extract<ResultOf<typeof TASK>['node'], { __typename: 'Task' }>;
export type Attempt = TaskData['attempts'][number];
