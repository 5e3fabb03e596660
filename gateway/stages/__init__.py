"""The stages of the chain, one class a file. They bring facts to the pure functions of `decide/` and write what follows."""
