"""The app: a finished run in a browser. `server.serve` starts it; it is right without a network, Node or a build."""
