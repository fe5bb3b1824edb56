import sys,json,numpy as np
from edge_models.comparison.gains import wider,over_repeats,paired
def gain(A,B):
    A,B=np.array(A,float),np.array(B,float)
    e=wider(over_repeats(A.mean(1)-B.mean(1),0.95),paired((A-B).mean(0),1.0,0.95)); return "%.1f vs %.1f: %+.1f (%+.1f to %+.1f), seeds %d"%(100*A.mean(),100*B.mean(),100*e.value,100*e.low,100*e.high,len(A))
if __name__=="__main__":
    d=[json.loads(l) for l in open("/work/scratch/cifar/jd.jsonl")]
    s={x["seed"]:x for x in d if x["kind"]=="student"}; p={x["seed"]:x for x in d if x["kind"]=="plain"}
    for k in s: assert s[k]["names"]==p[k]["names"]; print(k,p[k]["acc"],p[k]["frozen"],s[k]["acc"],s[k]["chosen"],round(s[k]["s"]),round(p[k]["s"]))
    k=sorted(s); print("over plain",gain([s[i]["right"] for i in k],[p[i]["right"] for i in k])); print("over frozen",gain([s[i]["right"] for i in k],[s[i]["frozen_right"] for i in k]))
    print("cpu min",sum(x["s"] for x in d)/60)
