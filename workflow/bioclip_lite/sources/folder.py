def samples(params): raise NotImplementedError
def read(params, locator): raise NotImplementedError
