"""CaMeLS: learning the weights of tokens by what an update with them is good for."""
