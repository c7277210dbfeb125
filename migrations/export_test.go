package migrations

// LockProblem is what is wrong with advisory locks, judged by what a second session sees of a shared one.
func LockProblem(seen, excluded, shared, stillSeen, freed bool) string {
	return lockProbe{seen, excluded, shared, stillSeen, freed}.problem()
}

// SequenceProblem is the same of a sequence, judged by what a second session reads.
func SequenceProblem(uncommitted, rolledBack int64) string {
	return sequenceProbe{uncommitted, rolledBack}.problem()
}
