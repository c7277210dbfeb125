package eventstoretest

// Linearizable is what the suite's test of this name checks.
var Linearizable = linearizable
