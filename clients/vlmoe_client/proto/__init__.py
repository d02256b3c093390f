"""The wire: .proto files, and the stubs that `make proto` makes of them. Never edit a stub."""
