package eventstoretest

// Linearizable is the check of the suite's test of this name.
var Linearizable = linearizable
